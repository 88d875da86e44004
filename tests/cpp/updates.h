// Dictionaries with the uses that make their gradients, for the tests of the optimisers' kernels. Whole
// numbers make every sum exact.
#pragma once

#include "kernels.h"

namespace kshot::tests {

// A dictionary [K, rows, runs, run], with two uses of its leading `active` rows and `length` elements of a
// run.
struct UpdateShape {
  int64_t shots, rows, runs, run, active, length;
};

template <class T>
class UpdateCase {
 public:
  UpdateCase(const UpdateShape& shape, bool dense, bool maximize, DType dtype)
      : shape_(shape),
        size_(shape.shots * shape.rows * shape.runs * shape.run),
        use_size_(shape.active * shape.runs * shape.length),
        weight(numbers<T>(size_, 1)),
        dense_(dense ? numbers<T>(size_, 3) : std::vector<T>()),
        code_(numbers<T>(2 * shape.shots, 4)),
        gate_(numbers<T>(shape.active, 5)),
        grad_(numbers<T>(2 * use_size_, 6)) {
    MixGeometry g{};
    g.shots = shape.shots;
    g.samples = 1;
    g.rows = shape.rows;
    g.runs = shape.runs;
    g.run_length = g.last_run_length = g.run_stride = shape.run;
    g.row_stride = shape.runs * shape.run;
    g.shot_stride = shape.rows * g.row_stride;
    uses_[0] = {code_.data(), gate_.data(), grad_.data(), shape.active, shape.length};
    uses_[1] = {code_.data() + shape.shots, nullptr, grad_.data() + use_size_, shape.active, shape.length};
    args = {g, dtype, weight.data(), dense ? dense_.data() : nullptr, uses_, dense ? 0 : 2, maximize};
  }
  UpdateCase(const UpdateCase&) = delete;

  int64_t size() const { return size_; }
  int64_t rows() const { return shape_.rows; }

  // The gradient of an element, upwards to maximize.
  double gradient(int64_t at) const {
    const int64_t copy = shape_.rows * shape_.runs * shape_.run, k = at / copy;
    const int64_t in_run = at % shape_.run, run = at / shape_.run % shape_.runs,
                  row = at % copy / (shape_.runs * shape_.run);
    double grad = args.grad ? dense_[at] : 0;
    if (args.use_count > 0 && row < shape_.active && in_run < shape_.length) {
      const int64_t from = (row * shape_.runs + run) * shape_.length + in_run;
      grad = static_cast<double>(code_[k]) * gate_[row] * grad_[from] +
             static_cast<double>(code_[shape_.shots + k]) * grad_[use_size_ + from];
    }
    return args.maximize ? -grad : grad;
  }

 private:
  UpdateShape shape_;
  int64_t size_, use_size_;

 public:
  std::vector<T> weight;
  DictionaryUpdate args;

 private:
  std::vector<T> dense_, code_, gate_, grad_;
  DictionaryUse uses_[2];
};

}  // namespace kshot::tests
