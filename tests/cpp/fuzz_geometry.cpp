// libFuzzer over the geometry of convolutions: numbers as an operator may be given, huge and negative ones
// among them. What `error_of` lets through must have right plans and, if it is small, right results from the
// kernels.
//
//   clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -Icsrc -Itests/cpp \
//     -fno-sanitize-recover=undefined -DKSHOT_ISA=portable -DKSHOT_HAVE_PORTABLE \
//     tests/cpp/fuzz_geometry.cpp csrc/cpu/*.cpp -o fuzz_geometry
//   ./fuzz_geometry -max_total_time=600
#include <cstdlib>
#include <cstring>

#include "convolutions.h"

namespace {

using namespace kshot;

// Numbers from the fuzzer's bytes: mostly small ones, some at the limits.
class Numbers {
 public:
  Numbers(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  int64_t next(int64_t least, int64_t most) {
    if (size_ == 0) return least;
    const uint8_t byte = take();
    if (byte < 232) return least + byte % (most - least + 1);
    constexpr int64_t kLimits[] = {-1,        0,        1, int64_t{1} << 20, INT32_MAX, int64_t{1} << 31,
                                   INT64_MAX, INT64_MIN};
    if (byte < 248) return kLimits[byte % 8];
    uint64_t any = 0;
    for (int i = 0; i < 8; ++i) any = any << 8 | take();
    return static_cast<int64_t>(any);
  }

 private:
  uint8_t take() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }

  const uint8_t* data_;
  size_t size_;
};

AxisArguments axis(Numbers& numbers) {
  return {numbers.next(1, 12), numbers.next(1, 7), numbers.next(1, 4),
          numbers.next(0, 6),  numbers.next(0, 6), numbers.next(1, 3)};
}

bool small(const ConvAxis& axis) {
  return axis.input <= 64 && axis.output <= 64 && axis.kernel <= 16;
}

void require(bool right) {
  if (!right) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Numbers numbers(data, size);
  const int64_t kind = numbers.next(0, 3) & 3;
  tests::Shape shape{numbers.next(1, 3) & 3, (numbers.next(1, 40) & 63) + 1, (numbers.next(1, 40) & 63) + 1,
                     axis(numbers), axis(numbers)};
  if (error_of(shape.height) || error_of(shape.width)) return 0;
  const ConvGeometry geometry = shape.geometry();
  for (const ConvAxis* side : {&geometry.height, &geometry.width}) {
    require(side->output >= 1 && side->stride >= 1 && side->output <= INT32_MAX);
    require((side->output - 1) * side->stride + side->dilation * (side->kernel - 1) <= int64_t{INT32_MAX});
  }
  if (!small(geometry.height) || !small(geometry.width)) return 0;
  require(tests::plan_is_right(geometry, false) && tests::plan_is_right(geometry, true));
  static const tests::Kernels kernels = tests::all_kernels().front();
  if (kind == 0) {
    require(tests::check_dense(kernels, shape));
  } else {
    shape.out_channels = shape.in_channels;
    require(kind == 1   ? tests::check_depthwise<float>(kernels, shape, DType::kFloat32, size % 2)
            : kind == 2 ? tests::check_depthwise<double>(kernels, shape, DType::kFloat64, size % 2)
                        : tests::check_depthwise<float>(kernels, shape, DType::kFloat32, true));
  }
  return 0;
}
