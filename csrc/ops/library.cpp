// The operator namespace and the schemas of its operators; csrc/ops/NAME.cpp and csrc/ops_cuda/NAME.cpp add
// the kernels.
//
// What the arguments mean stands there.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(kshot_ext, m) {
  m.def(
      "adamw_update(Tensor(a!)[] weights, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] "
      "max_exp_avg_sqs, float[] steps, Tensor?[] grads, int[] use_counts, Tensor[] use_codes, Tensor?[] "
      "use_gates, Tensor[] use_grads, float lr, float beta1, float beta2, float eps, float weight_decay, "
      "bool "
      "maximize) -> ()");
  m.def(
      "avg_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, bool "
      "count_include_pad, int divisor) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor grad, SymInt height, SymInt width, int[] kernel_size, int[] stride, int[] "
      "padding, bool ceil_mode, bool count_include_pad, int divisor) -> Tensor");
  m.def(
      "batch_norm_act(Tensor input, Tensor? weight, Tensor? bias, Tensor? code, Tensor? residual, Tensor? "
      "mean, Tensor? variance, float eps, int activation) -> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_act_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor? code, "
      "Tensor? "
      "residual, Tensor mean, Tensor variance, float eps, int activation, bool training, bool need_weight, "
      "bool compact_weight, bool need_bias, bool compact_bias, bool need_code, bool need_residual) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "chained_conv2d(Tensor input, Tensor? mean, Tensor? variance, Tensor? norm_weight, Tensor? norm_bias, "
      "float eps, int activation, Tensor weight, Tensor code, Tensor? gate, SymInt out_channels, int[] "
      "stride, int[] padding, int[] dilation, bool depthwise, bool moments, bool allow_tf32=False) -> "
      "(Tensor, "
      "Tensor, Tensor)");
  m.def(
      "chained_conv2d_backward(Tensor grad, Tensor? grad_mean, Tensor? grad_variance, Tensor input, Tensor? "
      "mean, Tensor? variance, Tensor? norm_weight, Tensor? norm_bias, float eps, int activation, Tensor "
      "weight, Tensor code, Tensor? gate, Tensor output, Tensor out_mean, int[] stride, int[] padding, int[] "
      "dilation, bool depthwise, bool need_input, bool need_effective, bool need_weight, bool need_code, "
      "bool need_gate, bool allow_tf32=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
  m.def(
      "chained_norm_act(Tensor input, Tensor mean, Tensor variance, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor? residual, float eps, int activation) -> Tensor");
  m.def(
      "chained_norm_act_backward(Tensor grad, Tensor input, Tensor mean, Tensor variance, Tensor? "
      "norm_weight, Tensor? norm_bias, Tensor? residual, float eps, int activation, bool need_residual) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("cpu_isa() -> str");
  m.def(
      "dtw_align(Tensor predictions, Tensor targets, Tensor? prediction_lengths, Tensor? target_lengths, int "
      "band, int norm) -> (Tensor, Tensor)");
  m.def(
      "dtw_align_backward(Tensor grad, Tensor predictions, Tensor targets, Tensor path, int norm, bool "
      "need_predictions, bool need_targets) -> (Tensor, Tensor)");
  m.def("dynamic_group_weight(Tensor weight, Tensor code, Tensor group_gates) -> Tensor");
  m.def(
      "dynamic_group_weight_backward(Tensor grad, Tensor weight, Tensor code, Tensor group_gates, bool "
      "need_weight, bool need_code, bool need_gates) -> (Tensor, Tensor, Tensor)");
  m.def(
      "effective_weight(Tensor weight, Tensor code, Tensor? gate, SymInt out_channels, SymInt "
      "in_channels) -> Tensor");
  m.def(
      "effective_weight_backward(Tensor grad, Tensor weight, Tensor code, Tensor? gate, bool "
      "need_weight, bool need_code, bool need_gate) -> (Tensor, Tensor, Tensor)");
  m.def("even_and_odd_channels(Tensor input, Tensor? behind=None) -> (Tensor, Tensor)");
  m.def(
      "even_and_odd_channels_backward(Tensor grad_even, Tensor grad_odd, SymInt channels) -> (Tensor, "
      "Tensor)");
  m.def(
      "folded_conv2d(Tensor input, Tensor weight, Tensor code, Tensor mean, Tensor variance, Tensor? "
      "norm_weight, Tensor? norm_bias, float eps, int activation, SymInt out_channels, int[] stride, int[] "
      "padding, int[] dilation, bool depthwise) -> Tensor");
  m.def("force_cpu_isa(str name) -> bool");
  m.def(
      "fused_conv2d(Tensor input, Tensor weight, Tensor code, Tensor? gate, Tensor? bias, SymInt "
      "out_channels, int[] stride, int[] padding, int[] dilation, bool depthwise, bool allow_tf32) -> "
      "Tensor");
  m.def(
      "fused_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor code, Tensor? gate, int[]"
      " stride, int[] padding, int[] dilation, bool depthwise, bool allow_tf32, bool need_input, bool "
      "need_effective, bool need_weight, bool need_code, bool need_gate) -> (Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def("mix_weights(Tensor[] weights, Tensor code) -> Tensor[]");
  m.def(
      "mix_weights_backward(Tensor[] grads, Tensor[] weights, Tensor code, int[] need_weights, bool "
      "need_code) -> (Tensor[], Tensor)");
  m.def(
      "sgd_update(Tensor(a!)[] weights, Tensor(b!)[] momentum_buffers, Tensor?[] grads, int[] use_counts, "
      "Tensor[] use_codes, Tensor?[] use_gates, Tensor[] use_grads, float lr, float momentum, float "
      "dampening, float weight_decay, bool nesterov, bool maximize) -> ()");
}
