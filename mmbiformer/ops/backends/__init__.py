"""The implementations of routed attention, all with one signature."""
