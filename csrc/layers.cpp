// The functions of the layers, as mmbiformer/ops/layers.py calls them.

#include "layers.h"

using namespace mmbiformer;

extern "C" {

int64_t linear_f32(const LinearArguments<float>* args) noexcept {
  return run_linear(*args, OpenMp(args->threads));
}

int64_t linear_f64(const LinearArguments<double>* args) noexcept {
  return run_linear(*args, OpenMp(args->threads));
}

int64_t mlp_f32(const MlpArguments<float>* args) noexcept {
  return run_mlp(*args, OpenMp(args->threads));
}

int64_t mlp_f64(const MlpArguments<double>* args) noexcept {
  return run_mlp(*args, OpenMp(args->threads));
}

int64_t depthwise_f32(const DepthwiseArguments<float>* args) noexcept {
  return run_depthwise(*args, OpenMp(args->threads));
}

int64_t depthwise_f64(const DepthwiseArguments<double>* args) noexcept {
  return run_depthwise(*args, OpenMp(args->threads));
}

}  // extern "C"
