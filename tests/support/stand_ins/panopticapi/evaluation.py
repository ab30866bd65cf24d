"""Panoptic quality, from the pairs of segments that a caller has matched."""

from collections import defaultdict

OFFSET = 256**3
VOID = 0


class PQStatCat:
    def __init__(self):
        self.iou, self.tp, self.fp, self.fn = 0.0, 0, 0, 0

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class PQStat:
    def __init__(self):
        self.per_category = defaultdict(PQStatCat)

    def __getitem__(self, category):
        return self.per_category[category]

    def __iadd__(self, other):
        for category, counts in other.per_category.items():
            self[category].__iadd__(counts)
        return self

    def pq_average(self, categories, isthing):
        each = {}
        for key, category in categories.items():
            if isthing in (None, category['isthing'] == 1):
                counts = self[key]
                segments = counts.tp + (counts.fp + counts.fn) / 2
                each[key] = dict(
                    pq=counts.iou / max(segments, 1),
                    sq=counts.iou / max(counts.tp, 1),
                    rq=counts.tp / max(segments, 1),
                )
        means = {
            name: sum(one[name] for one in each.values()) / len(each)
            for name in ('pq', 'sq', 'rq')
        }
        return dict(means, n=len(each)), each
