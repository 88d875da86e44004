// Geometry and kernels of the convolutions against loops over their definition: see convolutions.h.
#include <cstring>

#include "convolutions.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

bool errors_are_right() {
  constexpr int64_t kMost = INT32_MAX, kHuge = INT64_MAX, kLeast = INT64_MIN;
  struct Case {
    AxisArguments axis;  // input, kernel, stride, padding before and after, dilation
    bool legal;
  };
  const Case cases[] = {
      {{4, 3, 1, 0, 0, 1}, true},
      {{4, 3, 1, 0, 0, 2}, false},
      {{0, 1, 1, 1, 1, 1}, false},
      {{4, 3, 0, 0, 0, 1}, false},
      {{4, 3, -1, 0, 0, 1}, false},
      {{4, 3, 1, -1, 0, 1}, false},
      {{4, 3, 1, 0, -1, 1}, false},
      {{4, 3, 1, 0, 0, 0}, false},
      {{4, 0, 1, 0, 0, 1}, false},
      {{4, 3, kMost, 0, 0, 1}, true},
      {{4, 3, kMost + 1, 0, 0, 1}, false},
      {{4, 3, kHuge, 0, 0, 1}, false},
      {{4, 3, 1, kMost, 0, 1}, false},
      {{4, 3, 1, kHuge, kHuge, 1}, false},
      {{4, 1, 1, 0, 0, kHuge}, false},
      {{4, 1, 1, 0, 0, kMost}, true},
      {{4, 3, 1, 0, 0, kMost}, false},
      {{kMost, 1, 1, 0, 0, 1}, true},
      {{kMost, 1, 1, 1, 0, 1}, false},
      {{4, kHuge, 1, 0, 0, 1}, false},
      {{4, 3, kLeast, kLeast, kLeast, kLeast}, false},
      {{4, 3, 1, 1 << 29, 1 << 29, 1 << 29}, true},
  };
  for (const Case& c : cases) {
    if ((error_of(c.axis) == nullptr) != c.legal) {
      std::printf("axis %zu is %s\n", static_cast<size_t>(&c - cases), c.legal ? "refused" : "let through");
      return false;
    }
  }
  // A long stride is cut, the outputs stay.
  const ConvAxis cut = axis_of({4, 3, kMost, 1, 1, 1});
  return cut.output == 1 && cut.stride == 4 && axis_of({7, 3, 2, 1, 1, 1}).stride == 2;
}

const Shape kShapes[] = {
    // batch, channels in and out, height and width: input, kernel, stride, padding, padding, dilation
    {1, 1, 1, {1, 1, 1, 0, 0, 1}, {1, 1, 1, 0, 0, 1}},    {2, 5, 7, {4, 3, 1, 1, 1, 1}, {5, 3, 1, 1, 1, 1}},
    {5, 20, 33, {3, 3, 1, 1, 1, 1}, {9, 3, 1, 1, 1, 1}},  {3, 33, 20, {6, 1, 2, 0, 0, 1}, {6, 1, 2, 0, 0, 1}},
    {2, 64, 16, {7, 3, 2, 1, 1, 1}, {11, 3, 2, 1, 1, 1}}, {1, 3, 64, {9, 5, 3, 2, 1, 1}, {8, 5, 1, 2, 2, 1}},
    {2, 17, 65, {5, 2, 1, 0, 1, 2}, {13, 7, 1, 3, 3, 1}}, {3, 4, 6, {2, 3, 1, 4, 4, 1}, {1, 3, 2, 5, 5, 2}},
    {13, 32, 32, {2, 3, 1, 1, 1, 1}, {4, 5, 1, 2, 2, 1}}, {1, 40, 9, {6, 3, 1, 2, 2, 2}, {12, 4, 1, 1, 2, 1}},
    {2, 96, 48, {3, 1, 1, 0, 0, 1}, {5, 1, 1, 0, 0, 1}},  {1, 8, 8, {4, 3, 100, 1, 1, 1}, {4, 3, 1, 1, 1, 1}},
};

// A mixture of rows of K copies per sample, and its gradients.
bool check_rows(const Kernels& kernels, int64_t shots, int64_t samples, int64_t rows, int64_t width) {
  int64_t panel_width = 0;
  kernels.choose_panel_width(width, panel_width);
  width = std::min(width, panel_width);  // one panel's
  const int64_t size = rows * panel_width, copy = rows * width;
  const auto data = numbers<float>(shots * copy, 1), code = numbers<float>(samples * shots, 2),
             grad = numbers<float>(samples * copy, 3);
  std::vector<float> mixed(static_cast<size_t>(samples * size)), gradients(mixed.size()), dots(code.size()),
      sums(data.size());
  std::vector<double> expected(mixed.size()), expected_dots(code.size()), expected_sums(data.size());
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) {
        const double g = grad[(n * rows + r) * width + c];
        gradients[n * size + r * panel_width + c] = static_cast<float>(g);
        for (int64_t k = 0; k < shots; ++k) {
          const double value = data[k * copy + r * width + c], share = code[n * shots + k];
          expected[n * size + r * panel_width + c] += share * value;
          expected_dots[n * shots + k] += g * value;
          expected_sums[k * copy + r * width + c] += share * g;
        }
      }
    }
  }
  const cpu::CopyRows copies{data.data(), copy, width, shots, rows, width};
  kernels.mix_rows(copies, code.data(), samples, panel_width, mixed.data(), size);
  kernels.contract_rows(
      {copies, gradients.data(), size, panel_width, samples, code.data(), dots.data(), sums.data()});
  return equal("mixed rows", kernels, mixed, expected) && equal("dots", kernels, dots, expected_dots) &&
         equal("sums of rows", kernels, sums, expected_sums);
}

bool check_all(const Kernels& kernels) {
  bool passed = true;
  for (const Shape& shape : kShapes) {
    if (!plan_is_right(shape.geometry(), false) || !plan_is_right(shape.geometry(), true)) {
      std::printf("a gather plan is wrong\n");
      passed = false;
    }
    passed = check_dense(kernels, shape) && check_dense(kernels, shape, 3) && passed;
    Shape depthwise = shape;
    depthwise.out_channels = shape.in_channels;
    for (const bool per_sample : {false, true}) {
      for (const int64_t gap : {0, 3}) {
        passed = check_depthwise<float>(kernels, depthwise, DType::kFloat32, per_sample, gap) && passed;
      }
      passed = check_depthwise<double>(kernels, depthwise, DType::kFloat64, per_sample) && passed;
    }
  }
  for (const int64_t samples : {1, 3, 4, 6}) {
    for (const int64_t width : {1, 5, 16, 33, 64, 70})
      passed =
          check_rows(kernels, 3, samples, 5, width) && check_rows(kernels, 9, samples, 5, width) && passed;
  }
  std::vector<float> into(64, 1.0f), from(64, 2.0f);
  kernels.add_panels(into.data(), from.data(), 64);
  return equal("panels added", kernels, into, std::vector<double>(64, 3.0)) && passed;
}

// Half types go through the ring of widened rows. One task takes samples whose rows stay in it, one after
// another.
bool check_ring(const Kernels& kernels) {
  const Shape shape{6, 5, 5, {3, 3, 1, 1, 1, 1}, {3, 3, 1, 1, 1, 1}};
  return check_depthwise<BFloat16>(kernels, shape, DType::kBFloat16, false) &&
         check_depthwise<BFloat16>(kernels, shape, DType::kBFloat16, false, 3) &&
         check_depthwise<BFloat16>(kernels, shape, DType::kBFloat16, true);
}

}  // namespace

int main() {
  if (!errors_are_right()) return 1;
  return on_all_kernels([](const Kernels& kernels) { return check_all(kernels) && check_ring(kernels); });
}
