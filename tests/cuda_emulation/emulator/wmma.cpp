// Matrix products by a warp: fragments are spread over the lanes, the last lane to arrive multiplies for all.
#include <cstring>

#include "machine.h"
#include "mma.h"
#include "observer.h"
#include "sanitizers.h"

namespace emulation {
namespace {

constexpr int kMostElements = 512;  // of a matrix
constexpr int kSkew = 5;

// The lane's element in `slot` of its fragment, counted by rows. The rows of slots are turned against each
// other, so that no lane holds what the lane of the same number would write in a simple loop.
int element_of(int lane, int slot) {
  return slot * kWarpLanes + (lane + kSkew * (slot + 1)) % kWarpLanes;
}

size_t bytes_of(Element element) {
  return element == Element::kFloat || element == Element::kTf32 ? 4 : 2;
}

// What the multiplier sees of an element.
float value_of(const void* data, int index, Element element) {
  switch (element) {
    case Element::kFloat:
      return static_cast<const float*>(data)[index];
    case Element::kTf32:
      return __uint_as_float(static_cast<const uint32_t*>(data)[index] & 0xffffe000u);
    case Element::kFloat16:
      return Float16Format::to_float(static_cast<const uint16_t*>(data)[index]);
    default:
      return BFloat16Format::to_float(static_cast<const uint16_t*>(data)[index]);
  }
}

struct CopyOperand {
  void* memory;
  unsigned stride;
};

void check_same_copy(void* const* operands, unsigned) {
  const auto& first = *static_cast<CopyOperand*>(operands[0]);
  for (int lane = 1; lane < kWarpLanes; ++lane) {
    const auto& other = *static_cast<CopyOperand*>(operands[lane]);
    if (other.memory != first.memory || other.stride != first.stride) {
      fail("the lanes of a warp pass different pointers or strides\n" + machine().whereabouts());
    }
  }
}

struct Product {
  Tile d, a, b, c;
};

void gather(float* matrix, void* const* operands, Tile Product::* tile) {
  const Tile& shape = static_cast<Product*>(operands[0])->*tile;
  const int slots = shape.rows * shape.columns / kWarpLanes;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const Tile& part = static_cast<Product*>(operands[lane])->*tile;
    for (int slot = 0; slot < slots; ++slot) {
      matrix[element_of(lane, slot)] = value_of(part.data, slot, part.element);
    }
  }
}

void multiply(void* const* operands, unsigned) {
  float a[kMostElements], b[kMostElements], d[kMostElements];
  gather(a, operands, &Product::a);
  gather(b, operands, &Product::b);
  gather(d, operands, &Product::c);
  const Product& first = *static_cast<Product*>(operands[0]);
  const int rows = first.a.rows, depth = first.a.columns, columns = first.b.columns;
  for (int i = 0; i < rows; ++i) {
    for (int k = 0; k < depth; ++k) {
      const float factor = a[i * depth + k];
      for (int j = 0; j < columns; ++j) d[i * columns + j] += factor * b[k * columns + j];
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    auto* to = static_cast<float*>(static_cast<Product*>(operands[lane])->d.data);
    for (int slot = 0; slot < rows * columns / kWarpLanes; ++slot) to[slot] = d[element_of(lane, slot)];
  }
}

}  // namespace

void copy_tile(const char* name, const Tile& fragment, void* memory, unsigned stride, bool store, Site site) {
  const auto refuse = [&](const std::string& why) {
    fail(std::string(name) + " at " + site.file + ":" + std::to_string(site.line) + ": " + why);
  };
  if (!machine().running()) refuse("outside of a kernel");
  const size_t bytes = bytes_of(fragment.element);
  if (reinterpret_cast<uintptr_t>(memory) % 32) refuse("the pointer is not aligned to 32 bytes");
  if (stride * bytes % 16) refuse("the stride is not a multiple of 16 bytes");
  const int slots = fragment.rows * fragment.columns / kWarpLanes;
  const auto move = [&] {
    const int lane = machine().current().lane;
    for (int slot = 0; slot < slots; ++slot) {
      const int element = element_of(lane, slot);
      const size_t row = element / fragment.columns, column = element % fragment.columns;
      char* place = static_cast<char*>(memory) +
                    bytes * (fragment.column_major ? column * stride + row : row * stride + column);
      char* own = static_cast<char*>(fragment.data) + slot * bytes;
      if (store) {
        sanitizers::see_write(place, bytes);
        std::memcpy(place, own, bytes);
      } else {
        sanitizers::see_read(place, bytes);
        std::memcpy(own, place, bytes);
      }
    }
  };
  // As early as the lane can read, as late as it can write: other lanes' accesses are not waited for.
  if (!store) move();
  CopyOperand operand{memory, stride};
  machine().meet(name, 0xffffffffu, site, &operand, &check_same_copy, false, false);
  if (store) move();
  observe_tile(memory, stride * bytes, fragment.column_major ? fragment.columns : fragment.rows,
               bytes * (fragment.column_major ? fragment.rows : fragment.columns), store, site);
}

void multiply_tiles(const Tile& d, const Tile& a, const Tile& b, const Tile& c, Site site) {
  if (!machine().running()) fail("mma_sync outside of a kernel");
  Product product{d, a, b, c};
  machine().meet("mma_sync", 0xffffffffu, site, &product, &multiply, false, false);
}

}  // namespace emulation
