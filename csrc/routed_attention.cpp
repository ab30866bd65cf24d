// The functions of routed attention, as mmbiformer/ops/backends/native.py calls
// them.

#include "routed_attention.h"

using namespace mmbiformer;

extern "C" {

int64_t routed_attention_forward_f32(const AttentionArguments<float>* args) noexcept {
  return run<ForwardThread<float>>(*args, OpenMp(args->threads));
}

int64_t routed_attention_forward_f64(const AttentionArguments<double>* args) noexcept {
  return run<ForwardThread<double>>(*args, OpenMp(args->threads));
}

int64_t routed_attention_backward_f32(const AttentionArguments<float>* args) noexcept {
  return run<BackwardThread<float>>(*args, OpenMp(args->threads));
}

int64_t routed_attention_backward_f64(const AttentionArguments<double>* args) noexcept {
  return run<BackwardThread<double>>(*args, OpenMp(args->threads));
}

}  // extern "C"
