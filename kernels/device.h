#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/quant_spec.h"
#include "kernels/solver.h"
#include "runtime/device_link.h"
#include "runtime/dtype.h"

namespace halfquad {

/// An accelerator as its driver describes it.
struct DeviceInfo {
  int index = 0;       ///< As the driver counts those this process may see.
  std::string name;    ///< "NVIDIA H100 80GB HBM3"
  std::string bus_id;  ///< "0000:3b:00.0": the same in every process of the machine.
  int major = 0;       ///< Compute capability.
  int minor = 0;
  int multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t free_bytes = 0;  ///< As far as known without waking the device up, else all of it.
};

/// Packed rows of a tensor, or columns of it, with all that is needed to turn them into output bytes. All memory is the
/// host's; what is page-locked moves without a copy in between.
struct DeviceTile {
  /// Rows of the grouped matrix that lie in one slab of the packing, back to back.
  struct Slab {
    const std::byte* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t first_col =
        0;  ///< Of the tensor, that the first weight lies in. Where columns are weighed, or `coded`.
    std::int64_t first_row = 0;  ///< Likewise. Where `coded`.
    /// Where `coded`: the lines of the grid of scales that the weights need, from the first weight's on.
    std::span<const std::byte> scales = {};
  };
  /// Weights that lie as codes of one byte, each to be multiplied by a scale: decode_fp8_run() says how, and the device
  /// gets the same weights.
  struct Coded {
    DType dtype = DType::kF8E4M3;     ///< F8_E4M3, F8_E5M2 or I8.
    DType scale_dtype = DType::kF32;  ///< F32, F16, BF16 or F8_E8M0.
    std::int64_t tensor_cols = 0;
    std::int64_t block_rows = 1, block_cols = 1;  ///< Weights that share a scale.
  };
  /// What a format keeps of a group's grid: the scale rounded to the stored dtype, never to 0, and z or
  /// (middle - z) s beside it. Codes and errors are taken on what these stand for, with kAls after a zero of any value
  /// was fitted to the rounded scale.
  struct StoredForm {
    bool offset = false;
    float middle = 0;
    friend bool operator==(const StoredForm&, const StoredForm&) = default;
  };

  QuantSpec spec;              ///< @pre No super-blocks, no grid with levels; whole zeros with axis 1 alone.
  float tensor_scale = 1;      ///< Of a floating-point grid that has one. @pre `unpacked`, `stored` is F32, no `form`.
  DType source = DType::kF32;  ///< F32, F16, BF16 or F64 (rounded to fp32 first).
  /// What the slabs hold instead. @pre `source` is F32; axis 1 or per tensor; less than 2^31 weights in the tensor.
  std::optional<Coded> coded;
  DType stored = DType::kF16;  ///< Of scale and zero: F32, F16 or BF16.
  int iters = 0;               ///< Steps to run; see SolveRequest.
  RecordErrors record = RecordErrors::kNo;
  std::optional<FixedGrid> grid;   ///< Per-tensor quantization: the codes on this grid; no scale or zero is written.
  std::optional<StoredForm> form;  ///< None: codes are taken on the grid as it was found. @pre axis 1, no `grid`.
  bool unpacked = false;           ///< One slab, and codes stay one to a byte.
  /// One for each of the tensor's columns, as ColumnWeights::h. @pre empty unless spec.weighted().
  std::span<const float> importance;

  /// false (axis 1, per tensor): a group is a row of `cols` weights, one entry of `slabs` for each of the packing's,
  /// without rows where padding begins. true (axis 0): a group is a column; slabs[0] holds all rows of `cols` weights.
  bool by_columns = false;
  std::int64_t cols = 0;
  std::int64_t packed_rows = 0;
  std::vector<Slab> slabs;

  std::byte* codes = nullptr;  ///< packed_rows x cols packed elements.
  std::byte* scale = nullptr;  ///< In the stored dtype, one a group, slab after slab.
  std::byte* zero = nullptr;   ///< What stands beside the scale, likewise.
};

/// How the codes of a tile are packed.
[[nodiscard]] inline Packing packing_of(const DeviceTile& tile) noexcept {
  return tile.unpacked ? Packing::k8BitU8 : packing_of(tile.spec.width);
}

enum class DeviceOutcome : std::uint8_t {
  kDone,
  kNonfinite,   ///< A NaN or infinity, or a range beyond fp32, was met: the outputs are meaningless.
  kUnstorable,  ///< A scale or zero does not fit the stored dtype: likewise.
};

struct DeviceResult {
  DeviceOutcome outcome = DeviceOutcome::kDone;
  ErrorSums error;                 ///< As SolveStats::final_error.
  int settled = 0;                 ///< As SolveStats::settled.
  std::vector<ExactSum> step_abs;  ///< As SolveStats::step_abs when errors are recorded, else empty.
};

/// Solves and packs tiles on one device, on a stream of its own. One object per worker, not thread-safe.
/// Throws Error(kDevice) when the device failed: it is lost to this process, and the outputs are meaningless.
class DeviceSolver {
 public:
  virtual ~DeviceSolver() = default;
  [[nodiscard]] virtual std::string name() const = 0;  ///< "cuda:0 NVIDIA H100 80GB HBM3"

  /// Of the device's memory: what make_solver() was asked for, or less when the device had no more.
  [[nodiscard]] virtual std::uint64_t memory_bytes() const noexcept = 0;

  /// Returns when the outputs of all `tiles` are in host memory. They go to the device together: small tiles cost
  /// little more than one of their size in all. Same bytes as any Solver with pack_codes().
  virtual std::vector<DeviceResult> solve(std::span<const DeviceTile> tiles) = 0;
};

/// The devices of this process. Thread-safe.
class DeviceModule {
 public:
  virtual ~DeviceModule() = default;
  /// All devices that the driver shows, in its order; none when there is no driver.
  [[nodiscard]] virtual std::vector<DeviceInfo> devices() = 0;

  /// A solver on device `index` that keeps within `memory_bytes` of device memory, cutting tiles as it must.
  /// Throws kOutOfMemory when the device does not have even the least it needs, kDevice when it fails.
  [[nodiscard]] virtual std::unique_ptr<DeviceSolver> make_solver(int index, std::uint64_t memory_bytes) = 0;

  /// Locks host memory in place for transfers to and from any device; the work is done in the name of device `index`
  /// (no other is woken up for it). false when that is refused: the memory is as good as before.
  [[nodiscard]] virtual bool lock_pages(int index, std::span<std::byte> memory) noexcept = 0;
  /// @pre lock_pages() returned true for just this memory.
  virtual void unlock_pages(int index, std::span<std::byte> memory) noexcept = 0;

  /// Device memory with which solve() need not cut a tile of this many weights.
  [[nodiscard]] virtual std::uint64_t wanted_bytes(std::int64_t tile_weights) const noexcept = 0;

  /// Products on device `index`, in its memory beside that of any solver; not thread-safe, one for each worker. Throws
  /// kUsage when the device's BLAS is not installed, kOutOfMemory or kDevice as make_solver().
  [[nodiscard]] virtual std::unique_ptr<Gemm> make_gemm(int index) = 0;

  /// What a process that is to accept a link from device `index` has to know of it. This and the next two do not wait
  /// for any other process. Throws kUsage when there can be no link, as no library for it is installed; kDevice.
  [[nodiscard]] virtual std::vector<std::byte> link_identity(int index) = 0;
  /// The receiving end, on device `index`, of a link from the device with that identity. Throws kUsage when they cannot
  /// be connected: they are the same, or their libraries are of different versions; kDevice.
  [[nodiscard]] virtual AcceptedLink accept_link(int index, std::span<const std::byte> identity) = 0;
  /// The sending end, on the device whose identity was accepted. Throws kDevice.
  [[nodiscard]] virtual std::unique_ptr<DeviceLink> join_link(int index, std::span<const std::byte> invitation) = 0;

  /// "CUDA runtime 13.0, driver 13.0".
  [[nodiscard]] virtual std::string name() const = 0;
};

/// Changes with every change of the classes above: a module of another version is not used.
inline constexpr int kDeviceModuleVersion = 7;
inline constexpr char kDeviceModuleEntry[] = "halfquad_device_module";
/// What the module exports under that name: the module, which lives as long as the process; null when `version` is not
/// its own.
using DeviceModuleEntry = DeviceModule* (*)(int version);

}  // namespace halfquad
