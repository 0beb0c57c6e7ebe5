#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/solve_kernels.h"
#include "runtime/checked.h"

namespace halfquad::cuda {
namespace {

KernelKind rows_in_registers(Finder finder) noexcept {
  switch (finder) {
    case Finder::kSteps:
      return KernelKind::kRows;
    case Finder::kAls:
      return KernelKind::kAlsRows;
    case Finder::kWhole:
      return KernelKind::kWholeRows;
    case Finder::kWeighedWhole:
      return KernelKind::kWeighedWholeRows;
    case Finder::kFloats:
      return KernelKind::kFloatRows;
  }
  return KernelKind::kRows;
}

KernelKind rows_of_any_size(Finder finder) noexcept {
  switch (finder) {
    case Finder::kSteps:
    case Finder::kFloats:  // has none
      return KernelKind::kGeneralRows;
    case Finder::kAls:
      return KernelKind::kAlsGeneralRows;
    case Finder::kWhole:
      return KernelKind::kWholeGeneralRows;
    case Finder::kWeighedWhole:
      return KernelKind::kWeighedWholeGeneralRows;
  }
  return KernelKind::kGeneralRows;
}

/// The packer, after a solver that leaves codes unpacked.
cudaError_t then_pack(cudaError_t solved, const SolveLaunch& launch, bool by_columns, cudaStream_t stream) {
  return solved != cudaSuccess ? solved : launch_pack(launch, by_columns, stream);
}

}  // namespace

KernelChoice choose_kernel(const GroupKind& groups) noexcept {
  const auto elems = static_cast<int>(groups.elems <= 128 ? groups.elems : 0);
  if (groups.finder == Finder::kFloats) return {KernelKind::kFloatRows, elems};
  if (!groups.by_columns) {
    if (elems == 32 || elems == 64 || elems == 128) return {rows_in_registers(groups.finder), elems};
    return {rows_of_any_size(groups.finder), 0};
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
    case KernelKind::kWholeRows:
    case KernelKind::kWeighedWholeRows:
      return ceil_div<std::int64_t>(part.packed_rows, kThreads / kQuad / slabs);
    case KernelKind::kGeneralRows:
    case KernelKind::kAlsGeneralRows:
    case KernelKind::kWholeGeneralRows:
    case KernelKind::kWeighedWholeGeneralRows:
      return ceil_div<std::int64_t>(part.packed_rows * slabs, kGroupsOfWarp * kWarps);
    case KernelKind::kOneColumn:
      return 1;
    case KernelKind::kFloatRows:
      return ceil_div<std::int64_t>(part.packed_rows, kThreads);
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
    case KernelKind::kWholeRows:
      return launch_whole_rows(choice.group_elems, launch, stream);
    case KernelKind::kWeighedWholeRows:
      return launch_weighed_whole_rows(choice.group_elems, launch, stream);
    case KernelKind::kFloatRows:
      return launch_float_rows(choice.group_elems, launch, stream);
    case KernelKind::kGeneralRows:
      return then_pack(launch_general_rows(launch, stream), launch, false, stream);
    case KernelKind::kAlsGeneralRows:
      return then_pack(launch_als_general_rows(launch, stream), launch, false, stream);
    case KernelKind::kWholeGeneralRows:
      return then_pack(launch_whole_general_rows(launch, stream), launch, false, stream);
    case KernelKind::kWeighedWholeGeneralRows:
      return then_pack(launch_weighed_whole_general_rows(launch, stream), launch, false, stream);
    case KernelKind::kGeneralColumns:
      return then_pack(launch_general_columns(launch, stream), launch, true, stream);
    case KernelKind::kOneColumn:
      return then_pack(launch_one_column(launch, stream), launch, true, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace halfquad::cuda
