// Launches of the kernels in effective_weight_backward.cuh, and the layout of their scratch memory.
#include "cuda/effective_weight_backward.cuh"

#include <vector>

#include "cuda/column_sums.cuh"
#include "cuda/effective_weight.h"

namespace kshot::cuda {
namespace {

int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

int64_t sum_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : 4;
}

// Hands out pieces of the scratch memory; without memory, counts them.
class Scratch {
 public:
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}
  void* take(int64_t bytes) {
    void* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += (bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// The jobs of all kernels, of mixings that share a dtype.
struct BackwardPlan {
  std::vector<MixBackwardJob> mixings;
  std::vector<int64_t> blocks;  // of each mixing
  std::vector<ColumnSumJob> code_sums;
  std::vector<GateSumJob> gate_sums;

  BackwardPlan(const EffectiveWeightBackward* list, int64_t count, Scratch& scratch) {
    for (int64_t begin = 0, end; begin < count; begin = end) {
      for (end = begin + 1; end < count && shares_code_gradient(list[begin], list[end]);) ++end;
      add_sharing(list + begin, end - begin, scratch);
    }
  }

 private:
  static bool shares_code_gradient(const EffectiveWeightBackward& a, const EffectiveWeightBackward& b) {
    return a.grad_code && a.grad_code == b.grad_code &&
           a.forward.geometry.shots == b.forward.geometry.shots &&
           a.forward.geometry.samples == b.forward.geometry.samples;
  }

  // Mixings whose dL/dcode are one: the tiles' sums lie one after the other and are added up together.
  void add_sharing(const EffectiveWeightBackward* list, int64_t count, Scratch& scratch) {
    const DType dtype = list[0].forward.dtype;
    const MixGeometry& geometry = list[0].forward.geometry;
    const int64_t groups = mix_backward_groups(geometry.shots, geometry.samples);
    const int64_t tile = mix_backward_tile_size(groups, element_bytes(dtype));
    const int64_t chunks = (geometry.shots + groups * kCopiesHeld - 1) / (groups * kCopiesHeld);
    const int64_t columns = geometry.samples * geometry.shots;
    int64_t tiles = 0;
    for (int64_t i = 0; i < count; ++i) tiles += (list[i].forward.geometry.sample_size + tile - 1) / tile;
    char* code_sums =
        list[0].grad_code ? static_cast<char*>(scratch.take(tiles * columns * sum_bytes(dtype))) : nullptr;
    if (list[0].grad_code && columns > 0) {
      this->code_sums.push_back(
          {code_sums, list[0].grad_code, static_cast<int>(tiles), static_cast<int>(columns), 1});
    }
    for (int64_t i = 0; i < count; ++i) {
      const EffectiveWeight& forward = list[i].forward;
      MixBackwardJob job{};
      job.shape = mix_shape(forward.geometry, forward.gate_stride, element_bytes(dtype),
                            {forward.weight, list[i].grad, list[i].grad_weight});
      job.weight = forward.weight;
      job.code = forward.code;
      job.gate = forward.gate;
      job.grad = list[i].grad;
      job.grad_weight = list[i].grad_weight;
      const int64_t own_tiles = tiles_of(job.shape, tile);
      if (code_sums) {
        job.code_sums = code_sums;
        code_sums += own_tiles * columns * sum_bytes(dtype);
      }
      if (list[i].grad_gate) add_gate(list[i], job, chunks * groups, tile, scratch);
      const bool asked = job.grad_weight || list[i].grad_code || list[i].grad_gate;
      mixings.push_back(job);
      blocks.push_back(asked && job.shape.samples > 0 ? own_tiles * chunks : 0);
    }
  }

  void add_gate(const EffectiveWeightBackward& backward, MixBackwardJob& job, int64_t groups, int64_t tile,
                Scratch& scratch) {
    job.gate_parts = static_cast<int>((job.shape.row_length - 1) / tile + 2);
    job.gate_sums = scratch.take(groups * job.shape.samples * job.shape.rows * job.gate_parts *
                                 sum_bytes(backward.forward.dtype));
    gate_sums.push_back({job.gate_sums, backward.grad_gate, static_cast<int>(groups), job.shape.samples,
                         job.shape.rows, job.gate_parts, job.shape.row_length, static_cast<int>(tile),
                         job.shape.gate_stride == 0});
  }
};

// Launches of one kernel with parameters of at most 4 KiB each.
template <class Job, class Blocks, class Launch>
void launch_all(const std::vector<Job>& jobs, const Blocks& blocks, const Launch& launch) {
  JobBatch<JobList<Job>, Launch> batch(launch);
  for (size_t i = 0; i < jobs.size(); ++i) batch.add(jobs[i], blocks(i));
  batch.flush();
}

template <class T>
void launch_plan(const BackwardPlan& plan, cudaStream_t stream) {
  const auto launch_kind = [&](auto per_sample, auto groups) {
    launch_all(
        plan.mixings,
        [&](size_t i) {
          const MixShape& shape = plan.mixings[i].shape;
          const bool of_kind = (shape.samples > 1) == per_sample.value &&
                               mix_backward_groups(shape.shots, shape.samples) == groups.value;
          return of_kind ? plan.blocks[i] : 0;
        },
        [&](const JobList<MixBackwardJob>& list) {
          KSHOT_LAUNCH((mix_backward_kernel<T, decltype(per_sample)::value, decltype(groups)::value>),
                       dim3(list.blocks), dim3(kMixBackwardThreads), 0, stream, list);
        });
  };
  launch_kind(std::false_type{}, std::integral_constant<int, 1>{});
  launch_kind(std::true_type{}, std::integral_constant<int, 1>{});
  launch_kind(std::true_type{}, std::integral_constant<int, 2>{});
  launch_all(
      plan.code_sums, [&](size_t i) { return column_sum_blocks(plan.code_sums[i]); },
      [&](const JobList<ColumnSumJob>& list) {
        KSHOT_LAUNCH(column_sum_kernel<Sum<T>>, dim3(list.blocks), dim3(kSumColumns * kSumRows), 0, stream,
                     list);
      });
  launch_all(
      plan.gate_sums,
      [&](size_t i) {
        const GateSumJob& job = plan.gate_sums[i];
        const int64_t gates = static_cast<int64_t>(job.shared ? 1 : job.samples) * job.rows;
        return (gates + kGateSumThreads - 1) / kGateSumThreads;
      },
      [&](const JobList<GateSumJob>& list) {
        KSHOT_LAUNCH(gate_sum_kernel<Sum<T>>, dim3(list.blocks), dim3(kGateSumThreads), 0, stream, list);
      });
}

// Calls body(plan) for the runs of mixings of one dtype.
template <class Body>
int64_t for_each_plan(const EffectiveWeightBackward* mixings, int64_t count, void* workspace,
                      const Body& body) {
  Scratch scratch(workspace);
  for (int64_t begin = 0, end; begin < count; begin = end) {
    const DType dtype = mixings[begin].forward.dtype;
    for (end = begin + 1; end < count && mixings[end].forward.dtype == dtype;) ++end;
    body(BackwardPlan(mixings + begin, end - begin, scratch), dtype);
  }
  return scratch.used();
}

}  // namespace

int64_t effective_weight_backward_workspace(const EffectiveWeightBackward* mixings, int64_t count) {
  return for_each_plan(mixings, count, nullptr, [](const BackwardPlan&, DType) {});
}

void effective_weight_backward(const EffectiveWeightBackward* mixings, int64_t count, void* workspace,
                               void* stream) {
  for_each_plan(mixings, count, workspace, [&](const BackwardPlan& plan, DType dtype) {
    dispatch_device_dtype(dtype, [&](auto* type) {
      launch_plan<std::remove_pointer_t<decltype(type)>>(plan, static_cast<cudaStream_t>(stream));
    });
  });
}

}  // namespace kshot::cuda
