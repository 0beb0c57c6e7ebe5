#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/solve_kernels.h"
#include "runtime/checked.h"

namespace halfquad::cuda {

KernelChoice choose_kernel(bool by_columns, bool one_column, std::int64_t group_elems) noexcept {
  const auto elems = static_cast<int>(group_elems <= 128 ? group_elems : 0);
  if (!by_columns) {
    if (elems == 32 || elems == 64 || elems == 128) return {KernelKind::kRows, elems};
    return {KernelKind::kGeneralRows, 0};
  }
  if (one_column) return {KernelKind::kOneColumn, 0};
  if (elems == 64 || elems == 128) return {KernelKind::kColumns, elems};
  return {KernelKind::kGeneralColumns, 0};
}

std::int64_t blocks_of(const KernelChoice& choice, const Part& part, int slabs) noexcept {
  switch (choice.kind) {
    case KernelKind::kRows:
      return ceil_div<std::int64_t>(part.packed_rows, kThreads / slabs);
    case KernelKind::kGeneralRows:
      return ceil_div<std::int64_t>(part.packed_rows * slabs, kGroupsOfWarp * kWarps);
    case KernelKind::kOneColumn:
      return 1;
    case KernelKind::kColumns:
    case KernelKind::kGeneralColumns:
      return ceil_div<std::int64_t>(part.cols, kThreads);
  }
  return 0;
}

cudaError_t launch_solve(const KernelChoice& choice, const SolveLaunch& launch, cudaStream_t stream) {
  switch (choice.kind) {
    case KernelKind::kRows:
      return launch_rows(choice.group_elems, launch, stream);
    case KernelKind::kColumns:
      return launch_columns(choice.group_elems, launch, stream);
    case KernelKind::kGeneralRows:
      if (const cudaError_t status = launch_general_rows(launch, stream); status != cudaSuccess) return status;
      return launch_pack(launch, false, stream);
    case KernelKind::kGeneralColumns:
      if (const cudaError_t status = launch_general_columns(launch, stream); status != cudaSuccess) return status;
      return launch_pack(launch, true, stream);
    case KernelKind::kOneColumn:
      if (const cudaError_t status = launch_one_column(launch, stream); status != cudaSuccess) return status;
      return launch_pack(launch, true, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace halfquad::cuda
