// Chooses the tile of a gather kernel (dense_gather.cuh) and launches it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/dense_conv2d.h"
#include "cuda/dense_gather.cuh"

namespace kshot::cuda {
namespace {

// Returns how many row blocks there are in all classes, each of which covers all columns.
template <class Tile, bool transposed, class Link>
int64_t launch_gather_tile(typename Link::Parameters parameters, const std::vector<DensePlaces>& classes,
                           void* stream) {
  using Shape = typename Tile::Shape;
  parameters.column_tiles = static_cast<int32_t>(ceil_div(parameters.target_channels, Shape::kColumns));
  const int bytes = GatherMemory<Tile, transposed, Link::kSources>::bytes(parameters.weight.shots);
  int64_t all = 0;
  for (size_t first = 0; first < classes.size(); first += kMostClasses) {
    const size_t count = std::min<size_t>(kMostClasses, classes.size() - first);
    int64_t row_blocks = 0;
    for (size_t c = 0; c < count; ++c) {
      const DensePlaces& places = parameters.classes[c] = classes[first + c];
      row_blocks = std::max(row_blocks, parameters.per_sample
                                            ? parameters.samples * ceil_div(places.count, Shape::kRows)
                                            : ceil_div(parameters.samples * places.count, Shape::kRows));
    }
    parameters.row_blocks = static_cast<int32_t>(row_blocks);
    Link::count_from(parameters, all);
    all += row_blocks * static_cast<int64_t>(count);
    const dim3 grid(static_cast<unsigned>(row_blocks * parameters.column_tiles),
                    static_cast<unsigned>(count));
    KSHOT_LAUNCH((dense_gather_kernel<Tile, transposed, Link>), grid, dim3(Shape::kThreads), bytes,
                 static_cast<cudaStream_t>(stream), parameters);
  }
  return all;
}

// Tiles of 128 places where they fill the device and waste few rows, otherwise of 64.
inline bool prefers_tall_tiles(const GatherParameters& parameters, const std::vector<DensePlaces>& classes) {
  constexpr int64_t kBlocks = 256;
  const int64_t places = classes[0].count * (parameters.per_sample ? 1 : parameters.samples);
  const int64_t groups = parameters.per_sample ? parameters.samples : 1;
  const int64_t blocks = groups * ceil_div(places, 128) * ceil_div(parameters.target_channels, 64) *
                         static_cast<int64_t>(classes.size());
  return blocks >= kBlocks && 2 * ceil_div(places, 128) * 10 <= ceil_div(places, 64) * 11;
}

template <class T, bool transposed, bool tensor_cores, class Link>
int64_t launch_gather_of(const typename Link::Parameters& parameters, const std::vector<DensePlaces>& classes,
                         void* stream) {
  const auto with_shape = [&](auto* shape_of) {
    using Shape = std::remove_pointer_t<decltype(shape_of)>;
    using Left = LeftLayout<Shape, true>;
    using Right = RightLayout<Shape, !transposed>;
    if constexpr (tensor_cores) {
      return launch_gather_tile<TensorCoreTile<Shape, Left, Right, true>, transposed, Link>(parameters,
                                                                                            classes, stream);
    } else {
      return launch_gather_tile<PlainTile<Shape, Left, Right>, transposed, Link>(parameters, classes, stream);
    }
  };
  if constexpr (Link::kTallTiles) {
    if (prefers_tall_tiles(parameters, classes)) {
      return with_shape(static_cast<TileShape<T, 128, 64, 2, 2>*>(nullptr));
    }
  }
  return with_shape(static_cast<TileShape<T, 64, 64, 2, 2>*>(nullptr));
}

// Returns the row blocks of all classes.
template <bool transposed, class Link = PlainDenseLink>
int64_t launch_gather(DType dtype, bool allow_tf32, typename Link::Parameters parameters,
                      const ConvGeometry& geometry, const DenseDictionary& weight, const DenseChannels& gate,
                      const DenseChannels& bias, void* stream) {
  const ConvAxis &height = geometry.height, &width = geometry.width;
  const auto heights = transposed ? transposed_segments(height) : forward_segments(height);
  const auto widths = transposed ? transposed_segments(width) : forward_segments(width);
  std::vector<DensePlaces> classes;
  for (const AxisSegment& h : heights) {
    for (const AxisSegment& w : widths) {
      DensePlaces places(h, w, parameters.source_channels);
      if (places.count > 0) classes.push_back(places);
    }
  }
  if (classes.empty() || parameters.samples == 0 || parameters.target_channels == 0) return 0;
  parameters.weight = {weight.copies,
                       weight.shot_stride,
                       weight.out_stride,
                       weight.tap_stride,
                       weight.shots,
                       static_cast<int32_t>(width.kernel),
                       parameters.target_channels,
                       false};
  parameters.rows_outside =
      parameters.samples * parameters.source_height * parameters.source_width * parameters.source_channels >=
      weight.shots * geometry.out_channels * geometry.in_channels * geometry.taps();
  parameters.code = weight.code;
  parameters.code_stride = weight.code == nullptr ? 0 : weight.code_stride;
  parameters.gate = gate.data;
  parameters.gate_stride = gate.data == nullptr ? 0 : gate.stride;
  parameters.bias = bias.data;
  parameters.bias_stride = bias.data == nullptr ? 0 : bias.stride;
  parameters.per_sample = parameters.per_sample || parameters.code_stride != 0 ||
                          parameters.gate_stride != 0 || parameters.bias_stride != 0;
  int64_t row_blocks = 0;
  dispatch_device_dtype_without_double(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto in_vectors = [](int64_t elements) { return is_multiple(elements, kVectorLanes<T>); };
    parameters.source_bytes = CopyWidths::widest(parameters.source, parameters.source_channels, sizeof(T));
    parameters.target_bytes = StoreWidths::widest(parameters.target, parameters.target_channels, sizeof(T));
    Link::template narrow_accesses<T>(parameters);
    parameters.weight.vectors = is_vector_aligned(weight.copies) && in_vectors(geometry.in_channels) &&
                                in_vectors(weight.shot_stride) && in_vectors(weight.out_stride) &&
                                in_vectors(weight.tap_stride);
    if constexpr (std::is_same_v<T, float>) {
      if (!allow_tf32) {
        row_blocks = launch_gather_of<T, transposed, false, Link>(parameters, classes, stream);
        return;
      }
    }
    row_blocks = launch_gather_of<T, transposed, true, Link>(parameters, classes, stream);
  });
  return row_blocks;
}

// What the passes read and write: forward from the input to the output, backward from the output's side to
// the input's.
inline GatherParameters forward_parameters(const ConvGeometry& geometry, const Pixels<void>& input,
                                           void* output) {
  GatherParameters parameters{};
  parameters.source = input;
  parameters.target = output;
  parameters.samples = geometry.batch;
  parameters.source_height = static_cast<int32_t>(geometry.height.input);
  parameters.source_width = static_cast<int32_t>(geometry.width.input);
  parameters.source_channels = static_cast<int32_t>(geometry.in_channels);
  parameters.target_height = static_cast<int32_t>(geometry.height.output);
  parameters.target_width = static_cast<int32_t>(geometry.width.output);
  parameters.target_channels = static_cast<int32_t>(geometry.out_channels);
  return parameters;
}

inline GatherParameters backward_parameters(const ConvGeometry& geometry, const Pixels<void>& grad,
                                            void* grad_input) {
  GatherParameters parameters = forward_parameters(geometry, grad, grad_input);
  std::swap(parameters.source_height, parameters.target_height);
  std::swap(parameters.source_width, parameters.target_width);
  std::swap(parameters.source_channels, parameters.target_channels);
  return parameters;
}

}  // namespace
}  // namespace kshot::cuda
