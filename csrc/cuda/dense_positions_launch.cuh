// What the launch functions of the weights' gradients share: sizes as the kernels take them, and the choice
// of a tile.
#pragma once

#include "cuda/dense_conv2d.h"
#include "cuda/dense_positions.cuh"

namespace kshot::cuda {
namespace {

inline PositionProducts position_products(const ConvGeometry& geometry, const Pixels<void>& grad,
                                          const Pixels<void>& input, int64_t element_size) {
  PositionProducts products{};
  products.grad = grad;
  products.input = input;
  products.in_height = static_cast<int32_t>(geometry.height.input);
  products.in_width = static_cast<int32_t>(geometry.width.input);
  products.in_channels = static_cast<int32_t>(geometry.in_channels);
  products.out_channels = static_cast<int32_t>(geometry.out_channels);
  products.kernel_width = static_cast<int32_t>(geometry.width.kernel);
  products.grad_bytes = CopyWidths::widest(grad, geometry.out_channels, element_size);
  products.input_bytes = CopyWidths::widest(input, geometry.in_channels, element_size);
  products.places = DensePlaces(forward_segments(geometry.height)[0], forward_segments(geometry.width)[0],
                                geometry.in_channels);
  return products;
}

// Calls body with a null pointer to the type of tile that makes such products.
template <int rows, int columns, int warp_rows, int warp_columns, class Body>
void dispatch_position_tile(DType dtype, bool allow_tf32, const Body& body) {
  dispatch_device_dtype_without_double(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using Shape = TileShape<T, rows, columns, warp_rows, warp_columns>;
    using Left = LeftLayout<Shape, false>;
    using Right = RightLayout<Shape, false>;
    if constexpr (std::is_same_v<T, float>) {
      if (!allow_tf32) return body(static_cast<PlainTile<Shape, Left, Right>*>(nullptr));
    }
    body(static_cast<TensorCoreTile<Shape, Left, Right, false>*>(nullptr));
  });
}

}  // namespace
}  // namespace kshot::cuda
