// Kernels: csrc/cuda/dtw_align.cu
#include "cuda/dtw_align.h"

#include "arguments.h"

namespace py = pybind11;
using namespace emulation;

// Points [pairs, rows or columns, channels] of float32 or float64; lengths [pairs] of int64, or None.
struct Sequences {
  Input predictions, targets, prediction_lengths, target_lengths;
  py::dtype dtype;
  kshot::DtwAlign args{};

  Sequences(const py::array& p, const py::array& t, const py::object& p_lengths, const py::object& t_lengths,
            int64_t band, bool euclidean)
      : predictions("predictions", p),
        targets("targets", t),
        prediction_lengths("prediction_lengths", p_lengths),
        target_lengths("target_lengths", t_lengths),
        dtype(p.dtype()) {
    args.dtype = dtype.itemsize() == 8 ? kshot::DType::kFloat64 : kshot::DType::kFloat32;
    args.count = p.shape(0);
    args.rows = p.shape(1);
    args.columns = t.shape(1);
    args.channels = p.shape(2);
    args.band = band < 0 ? kshot::kMostAlignedPoints : band;
    args.euclidean = euclidean;
    args.predictions = predictions.data();
    args.targets = targets.data();
    args.prediction_lengths = prediction_lengths.data<int64_t>();
    args.target_lengths = target_lengths.data<int64_t>();
  }
};

// Costs and paths; a negative band is none.
py::tuple dtw_align(const py::array& p, const py::array& t, const py::object& p_lengths,
                    const py::object& t_lengths, int64_t band, bool euclidean) {
  Sequences sequences(p, t, p_lengths, t_lengths, band, euclidean);
  kshot::DtwAlign& args = sequences.args;
  const Output cost("cost", {args.count}, sequences.dtype);
  const Output path("path", {args.count, args.path_size(), 2}, py::dtype("int64"));
  args.cost = cost.data();
  args.path = path.data<int64_t>();
  const Scratch workspace(kshot::cuda::dtw_align_workspace(args));
  kshot::cuda::dtw_align(args, workspace.data(), nullptr);
  return py::make_tuple(cost.numpy(), path.numpy());
}

// The gradients of both sequences, None where not asked for.
py::tuple dtw_align_backward(const py::array& grad, const py::array& p, const py::array& t, py::array path,
                             bool euclidean, bool need_predictions, bool need_targets) {
  Sequences sequences(p, t, py::none(), py::none(), -1, euclidean);
  const Input grads("grad", grad);
  InOut pairs("path", path);
  const auto shape_of = [](const py::array& array) {
    return std::vector<int64_t>(array.shape(), array.shape() + array.ndim());
  };
  const Output predictions("grad_predictions", shape_of(p), sequences.dtype);
  const Output targets("grad_targets", shape_of(t), sequences.dtype);
  sequences.args.path = pairs.data<int64_t>();
  kshot::cuda::dtw_align_backward(
      {sequences.args, grads.data(), need_predictions ? predictions.data() : nullptr,
       need_targets ? targets.data() : nullptr},
      nullptr);
  const auto given = [](bool needed, const Output& output) -> py::object {
    if (needed) return output.numpy();
    return py::none();
  };
  return py::make_tuple(given(need_predictions, predictions), given(need_targets, targets));
}

KSHOT_EMULATION_MODULE(module) {
  module.def("dtw_align", &dtw_align);
  module.def("dtw_align_backward", &dtw_align_backward);
}
