#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/solve_kernels.h"
#include "runtime/checked.h"

namespace halfquad::cuda {

KernelChoice choose_kernel(const GroupKind& groups) noexcept {
  const auto elems = static_cast<int>(groups.elems <= 128 ? groups.elems : 0);
  if (!groups.by_columns) {
    if (elems == 32 || elems == 64 || elems == 128) {
      return {groups.als ? KernelKind::kAlsRows : KernelKind::kRows, elems};
    }
    return {groups.als ? KernelKind::kAlsGeneralRows : KernelKind::kGeneralRows, 0};
  }
  if (groups.one_column) return {KernelKind::kOneColumn, 0};
  if (elems == 64 || elems == 128) return {KernelKind::kColumns, elems};
  return {KernelKind::kGeneralColumns, 0};
}

std::int64_t blocks_of(const KernelChoice& choice, const Part& part, int slabs) noexcept {
  switch (choice.kind) {
    case KernelKind::kRows:
      return ceil_div<std::int64_t>(part.packed_rows, kThreads / slabs);
    case KernelKind::kAlsRows:
      return ceil_div<std::int64_t>(part.packed_rows, kThreads / kQuad / slabs);
    case KernelKind::kGeneralRows:
    case KernelKind::kAlsGeneralRows:
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
    case KernelKind::kAlsRows:
      return launch_als_rows(choice.group_elems, launch, stream);
    case KernelKind::kColumns:
      return launch_columns(choice.group_elems, launch, stream);
    case KernelKind::kGeneralRows:
      if (const cudaError_t status = launch_general_rows(launch, stream); status != cudaSuccess) return status;
      return launch_pack(launch, false, stream);
    case KernelKind::kAlsGeneralRows:
      if (const cudaError_t status = launch_als_general_rows(launch, stream); status != cudaSuccess) return status;
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
