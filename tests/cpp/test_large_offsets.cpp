// Elements beyond 2^31: each kernel is asked for the last part of a tensor so large that 32 bits do not hold
// its offsets. The tensors are reserved, not filled: memory comes to the few pages that are touched.
#include <sys/mman.h>

#include "common/gather_plan.h"
#include "kernels.h"

namespace {

using namespace kshot;
using namespace kshot::tests;

constexpr int64_t kBeyond = (int64_t{1} << 31) + 12345;  // elements before the part in use

// `size` floats of reserved memory, all zero until written.
class Reserved {
 public:
  explicit Reserved(int64_t size) : bytes_(static_cast<size_t>(size) * sizeof(float)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~Reserved() {
    if (good()) munmap(data_, bytes_);
  }
  Reserved(const Reserved&) = delete;
  bool good() const { return data_ != MAP_FAILED; }
  float* data() const { return static_cast<float*>(data_); }
  void put(int64_t at, const std::vector<float>& values) const {
    std::copy(values.begin(), values.end(), data() + at);
  }
  std::vector<float> get(int64_t at, size_t count) const { return {data() + at, data() + at + count}; }

 private:
  size_t bytes_;
  void* data_;
};

std::vector<double> wide(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// Both copies of a dictionary lie beyond 2^31 from its beginning, in rows that do so, too.
bool check_dictionary(const Kernels& kernels) {
  MixGeometry g{};
  g.shots = 2;
  g.samples = g.runs = 1;
  g.run_length = g.last_run_length = g.row_stride = g.run_stride = 33;
  g.rows = kBeyond / g.row_stride + 2;
  g.shot_stride = g.sample_size = g.rows * g.row_stride;
  const Reserved weight(2 * g.shot_stride), mixed(g.sample_size), buffer(2 * g.shot_stride);
  if (!weight.good() || !mixed.good() || !buffer.good()) return false;
  const int64_t last = g.rows - 1, at = last * g.row_stride;
  const auto first = numbers<float>(33, 1), second = numbers<float>(33, 2), code = std::vector<float>{2, 3};
  weight.put(at, first);
  weight.put(g.shot_stride + at, second);
  std::vector<double> expected;
  for (int64_t i = 0; i < 33; ++i) expected.push_back(2.0 * first[i] + 3.0 * second[i]);
  EffectiveWeight forward{g, DType::kFloat32, weight.data(), code.data(), nullptr, 0, mixed.data()};
  kernels.effective_weight(forward, last, g.rows);
  if (!equal("large mixture", kernels, mixed.get(at, 33), expected)) return false;

  // The mixture is its own gradient; the update takes gradient 1 * copy by a dense gradient, the weight
  // itself.
  SgdUpdate update{};
  update.geometry = g;
  update.dtype = DType::kFloat32;
  update.weight = weight.data();
  update.momentum_buffer = buffer.data();
  update.grad = weight.data();
  update.lr = 0.5;
  kernels.sgd_update(update, last, g.rows);
  std::vector<double> halves;
  for (const float value : second) halves.push_back(0.5 * value);
  return equal("large update", kernels, weight.get(g.shot_stride + at, 33), halves) &&
         equal("large momentum", kernels, buffer.get(g.shot_stride + at, 33), wide(second));
}

bool check_batch_norm(const Kernels& kernels) {
  const int64_t channels = 33, position = kBeyond / channels + 1, at = position * channels;
  const Reserved x(at + channels), y(at + channels), dx(at + channels);
  if (!x.good() || !y.good() || !dx.good()) return false;
  const auto values = numbers<float>(channels, 1);
  x.put(at, values);
  cpu::BatchNormAct args{DType::kFloat32,
                         Activation::kIdentity,
                         channels,
                         position + 1,
                         {x.data(), channels},
                         {nullptr, 0},
                         nullptr,
                         nullptr,
                         nullptr,
                         nullptr,
                         0,
                         0,
                         y.data(),
                         false};
  kernels.batch_norm_act(args, 0, position, position + 1);
  kernels.batch_norm_act_backward({args, {x.data(), channels}, nullptr, nullptr, dx.data(), nullptr}, 0,
                                  position, position + 1);
  std::vector<float> moments(2 * channels);
  kernels.batch_norm_moments(DType::kFloat32, {x.data(), channels}, channels, position, position + 1,
                             moments.data());
  return equal("large batch norm", kernels, y.get(at, channels), wide(values)) &&
         equal("large batch norm, input", kernels, dx.get(at, channels), wide(values)) &&
         equal("large moments", kernels, moments, wide(values));
}

// 1x1 convolutions of images of 4 x 4 pixels, of which the last sample lies beyond 2^31.
bool check_convolutions(const Kernels& kernels) {
  const int64_t c = 33, pixels = 16, size = pixels * c, n = kBeyond / size + 1, at = n * size;
  const ConvAxis axis{4, 4, 1, 1, 0, 1};
  const ConvGeometry g{n + 1, c, c, axis, axis};
  const Reserved x(at + size), y(at + size), dx(at + size);
  if (!x.good() || !y.good() || !dx.good()) return false;
  const auto values = numbers<float>(size, 1);
  x.put(at, values);
  std::vector<float> two(c, 2.0f), sums(c);
  const AxisTaps taps(forward_segments(axis), 4, 4), back_taps(transposed_segments(axis), 4, 4);
  const auto columns = forward_segments(axis), back_columns = transposed_segments(axis);
  cpu::DepthwiseGather forward{DType::kFloat32, c,          4, 4,       4, 4,        &taps, &columns, 1, 1,
                               {x.data(), c},   two.data(), 0, nullptr, 0, y.data(), false};
  kernels.depthwise_gather(forward, {n, n + 1, 0, c});
  cpu::DepthwiseGather back = forward;
  back.rows = &back_taps;
  back.columns = &back_columns;
  back.target = dx.data();
  kernels.depthwise_backward(&back, {DType::kFloat32, g, &taps, &columns, {x.data(), c}, {x.data(), c}},
                             {n, n + 1, 0, c}, sums.data());
  std::vector<double> doubled = wide(values), squares(c);
  for (int64_t i = 0; i < size; ++i) {
    squares[i % c] += doubled[i] * doubled[i];
    doubled[i] *= 2;
  }
  if (!equal("large depthwise", kernels, y.get(at, size), doubled) ||
      !equal("large depthwise, input", kernels, dx.get(at, size), doubled) ||
      !equal("large depthwise, weight", kernels, sums, squares))
    return false;

  // Dense, the weight three times the identity.
  std::vector<float> weight(c * c), packed(1 << 14), gradient(1 << 14), unpacked(c * c);
  for (int64_t i = 0; i < c; ++i) weight[i * c + i] = 3;
  const cpu::WeightView view{weight.data(), c, c, 1, c, 1, c};
  int64_t width = 0;
  kernels.choose_panel_width(c, width);
  const int64_t count = (c + width - 1) / width;
  for (int64_t p = 0; p < count; ++p) kernels.pack_by_output(view, p, width, packed.data() + p * c * width);
  const GatherPlan plan = forward_plan(g);
  kernels.dense_gather({&plan, c, c, {x.data(), c}, y.data(), false},
                       {packed.data(), c * width, width, 0, count}, nullptr, n * pixels, (n + 1) * pixels);
  kernels.dense_weight_gradient({&plan, c, c, {x.data(), c}, {x.data(), c}, true, 0, c},
                                {gradient.data(), c * width, width, 0, count}, n * pixels, (n + 1) * pixels);
  for (int64_t p = 0; p < count; ++p) {
    kernels.unpack_by_output(view, p, width, gradient.data() + p * c * width, unpacked.data());
  }
  std::vector<double> tripled = wide(values), diagonal(c * c);
  for (double& value : tripled) value *= 3;
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < c; ++j) {
      diagonal[i % c * c + j] += static_cast<double>(values[i]) * values[i / c * c + j];
    }
  }
  return equal("large dense", kernels, y.get(at, size), tripled) &&
         equal("large dense, weight", kernels, unpacked, diagonal);
}

}  // namespace

int main() {
  return on_all_kernels([](const Kernels& kernels) {
    return check_dictionary(kernels) && check_batch_norm(kernels) && check_convolutions(kernels);
  });
}
