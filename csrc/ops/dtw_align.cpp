// Operator dtw_align and its backward, on every backend: checks and allocation. Kernels: cpu/ and
// cuda/dtw_align.
#include <optional>
#include <tuple>

#include "ops/alignment_pass.h"
#include "ops/registration.h"

namespace kshot {
namespace {

// Two batches of sequences in the dtype of sums, which half types are widened to: kernels read a point often.
struct Sequences {
  Tensor predictions, targets;
  torch::headeronly::ScalarType sums;

  Sequences(const Tensor& predictions, const Tensor& targets)
      : predictions(widened(predictions)), targets(widened(targets)), sums(sum_type_of(predictions)) {
    const bool alike = predictions.dim() == 3 && targets.dim() == 3 &&
                       predictions.size(0) == targets.size(0) && predictions.size(2) == targets.size(2) &&
                       predictions.device() == targets.device() &&
                       predictions.scalar_type() == targets.scalar_type();
    STD_TORCH_CHECK(alike, "predictions [N, P, D] and targets [N, T, D] must be alike but for P and T");
    constexpr int64_t most = kMostAlignedPoints - 1;
    const bool fits = 1 <= predictions.size(1) && predictions.size(1) <= most && 1 <= targets.size(1) &&
                      targets.size(1) <= most && predictions.size(2) >= 1;
    STD_TORCH_CHECK(fits, "predictions and targets must have 1 to ", most,
                    " points of at least one coordinate, got ", predictions.size(1), " and ", targets.size(1),
                    " points of ", predictions.size(2));
  }

  DtwAlign arguments(int64_t norm) const {
    STD_TORCH_CHECK(norm == 1 || norm == 2, "norm must be 1 or 2, got ", norm);
    DtwAlign args{};
    args.dtype = dtype_of(predictions);
    args.count = predictions.size(0);
    args.rows = predictions.size(1);
    args.columns = targets.size(1);
    args.channels = predictions.size(2);
    args.euclidean = norm == 2;
    args.predictions = predictions.data_ptr();
    args.targets = targets.data_ptr();
    return args;
  }

 private:
  static Tensor widened(const Tensor& tensor) {
    dtype_of(tensor);
    return as_contiguous(in_dtype(tensor, sum_type_of(tensor)));
  }
};

Tensor new_tensor(const Sizes& sizes, torch::headeronly::ScalarType dtype, const Tensor& like) {
  return empty_strided(sizes, contiguous_strides(sizes), dtype, like);
}

std::optional<Tensor> contiguous_lengths(const char* name, const std::optional<Tensor>& lengths,
                                         const Tensor& sequences) {
  if (!lengths) return std::nullopt;
  STD_TORCH_CHECK(lengths->dim() == 1 && lengths->size(0) == sequences.size(0) &&
                      lengths->scalar_type() == torch::headeronly::ScalarType::Long &&
                      lengths->device() == sequences.device(),
                  name, " must be [N] of int64, where the sequences are");
  return as_contiguous(*lengths);
}

std::tuple<Tensor, Tensor> dtw_align(const Tensor& predictions,                        // [N, P, D]
                                     const Tensor& targets,                            // [N, T, D]
                                     const std::optional<Tensor>& prediction_lengths,  // [N]
                                     const std::optional<Tensor>& target_lengths,      // [N]
                                     int64_t band,                                     // -1: none
                                     int64_t norm) {
  const Sequences sequences(predictions, targets);
  DtwAlign args = sequences.arguments(norm);
  STD_TORCH_CHECK(band >= -1, "band must be at least 0, or -1 for none, got ", band);
  args.band = band < 0 ? kMostAlignedPoints : std::min(band, kMostAlignedPoints);
  const auto rows = contiguous_lengths("prediction_lengths", prediction_lengths, predictions);
  const auto columns = contiguous_lengths("target_lengths", target_lengths, targets);
  args.prediction_lengths = rows ? static_cast<const int64_t*>(rows->data_ptr()) : nullptr;
  args.target_lengths = columns ? static_cast<const int64_t*>(columns->data_ptr()) : nullptr;
  Tensor cost = new_tensor({args.count}, sequences.sums, predictions);
  Tensor path =
      new_tensor({args.count, args.path_size(), 2}, torch::headeronly::ScalarType::Long, predictions);
  args.cost = cost.data_ptr();
  args.path = static_cast<int64_t*>(path.data_ptr());
  if (args.count > 0) run_alignment(args, cost);
  return {cost, path};
}

// Gradients of the sequences along a path that is given; those not asked for are empty.
std::tuple<Tensor, Tensor> dtw_align_backward(const Tensor& grad,  // [N], in the dtype of sums
                                              const Tensor& predictions, const Tensor& targets,
                                              const Tensor& path,  // [N, P + T - 1, 2]
                                              int64_t norm, bool need_predictions, bool need_targets) {
  const Sequences sequences(predictions, targets);
  DtwAlignBackward args{};
  args.forward = sequences.arguments(norm);
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == args.forward.count &&
                      grad.scalar_type() == sequences.sums && grad.device() == predictions.device(),
                  "the cost's gradient must be [N] of scalar type ", static_cast<int>(sequences.sums),
                  ", where the sequences are");
  STD_TORCH_CHECK(sizes_of(path) == Sizes({args.forward.count, args.forward.path_size(), 2}) &&
                      path.scalar_type() == torch::headeronly::ScalarType::Long &&
                      path.device() == predictions.device(),
                  "path must be [N, P + T - 1, 2] of int64, where the sequences are");
  const Tensor grads = as_contiguous(grad), pairs = as_contiguous(path);
  args.grad = grads.data_ptr();
  args.forward.path = static_cast<int64_t*>(pairs.data_ptr());
  const auto gradient_of = [&](const Tensor& sequence, bool needed) {
    return needed ? new_tensor(sizes_of(sequence), sequences.sums, sequence) : none_like(sequence);
  };
  Tensor grad_predictions = gradient_of(predictions, need_predictions);
  Tensor grad_targets = gradient_of(targets, need_targets);
  args.grad_predictions = need_predictions ? grad_predictions.data_ptr() : nullptr;
  args.grad_targets = need_targets ? grad_targets.data_ptr() : nullptr;
  if (args.forward.count > 0) run_alignment_backward(args, grads);
  return {in_dtype(grad_predictions, predictions.scalar_type()),
          in_dtype(grad_targets, targets.scalar_type())};
}

}  // namespace
}  // namespace kshot

KSHOT_KERNELS(m) {
  m.impl("dtw_align", TORCH_BOX(&kshot::dtw_align));
  m.impl("dtw_align_backward", TORCH_BOX(&kshot::dtw_align_backward));
}
