// Sizes or strides of a tensor, kept in place: around small tensors asking for memory takes longer than
// kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <stdexcept>

namespace kshot {

// Like a vector of as many entries as torch's own operators take dimensions.
class Sizes {
 public:
  static constexpr size_t kMost = 64;

  Sizes() = default;
  explicit Sizes(size_t count) : count_(checked(count)) { std::fill(begin(), end(), 0); }
  Sizes(std::initializer_list<int64_t> values) : Sizes(values.begin(), values.end()) {}
  template <class Iterator>
  Sizes(Iterator first, Iterator last) : count_(checked(static_cast<size_t>(std::distance(first, last)))) {
    std::copy(first, last, begin());
  }
  Sizes(const Sizes& other) : Sizes(other.begin(), other.end()) {}
  Sizes& operator=(const Sizes& other) {
    count_ = other.count_;
    std::copy(other.begin(), other.end(), begin());
    return *this;
  }

  size_t size() const { return count_; }
  int64_t* data() { return values_; }
  const int64_t* data() const { return values_; }
  int64_t* begin() { return values_; }
  const int64_t* begin() const { return values_; }
  int64_t* end() { return values_ + count_; }
  const int64_t* end() const { return values_ + count_; }
  int64_t& operator[](size_t index) { return values_[index]; }
  int64_t operator[](size_t index) const { return values_[index]; }

  void push_back(int64_t value) { insert(end(), value); }
  void insert(int64_t* at, int64_t value) { insert(at, &value, &value + 1); }
  void insert(int64_t* at, const int64_t* first, const int64_t* last) {  // of another object
    count_ = checked(count_ + static_cast<size_t>(last - first));
    std::copy_backward(at, end() - (last - first), end());
    std::copy(first, last, at);
  }
  void erase(int64_t* at) {
    std::copy(at + 1, end(), at);
    --count_;
  }

  friend bool operator==(const Sizes& left, const Sizes& right) {
    return std::equal(left.begin(), left.end(), right.begin(), right.end());
  }

 private:
  static size_t checked(size_t count) {
    if (count > kMost) throw std::length_error("tensors of more than 64 dimensions are not supported");
    return count;
  }

  size_t count_ = 0;
  int64_t values_[kMost];
};

}  // namespace kshot
