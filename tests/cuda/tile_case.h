#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "tests/unit/kernels/random_groups.h"

namespace halfquad::test {

/// How the weights of a tensor are stored that are codes with scales.
struct CodedSpec {
  DType dtype = DType::kF8E4M3;
  DType scale_dtype = DType::kF32;
  std::int64_t block_rows = 128, block_cols = 128;
};

/// A small tensor, solved as one tile, and how.
struct TileSpec {
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;  ///< Of the tensor.
  DType source = DType::kF32;
  std::optional<CodedSpec> coded;  ///< `source` is F32, what they are decoded to.
  DType stored = DType::kF16;
  int iters = 20;
  RecordErrors record = RecordErrors::kYes;
  Weights kind = Weights::kGauss;
  double scale = 0.02;
  std::optional<DeviceTile::StoredForm> form;
  bool unpacked = false;
  bool weighed = false;  ///< Its columns count differently.
};
[[nodiscard]] std::string describe(const TileSpec& spec);

/// Whether the tensor can be quantized so, with the reason left out.
[[nodiscard]] bool possible(const TileSpec& spec);

/// A tile with its memory, and what the reference solver and pack_codes() make of it.
class TileCase {
 public:
  TileCase(const TileSpec& spec, std::mt19937_64& random);
  /// tile() points into this object.
  TileCase(const TileCase&) = delete;
  TileCase& operator=(const TileCase&) = delete;

  [[nodiscard]] const DeviceTile& tile() const noexcept { return tile_; }
  /// The memory of the weights as they are stored, and of the codes.
  [[nodiscard]] std::span<std::byte> weights() noexcept { return spec_.coded ? stored_ : weights_; }
  [[nodiscard]] std::span<std::byte> codes() noexcept { return got_.codes; }
  [[nodiscard]] DeviceOutcome outcome() const noexcept { return outcome_; }
  /// Overwrites weight `i` and solves by reference again.
  void set_weight(std::int64_t i, float value);
  /// Makes the stored code of weight `i` that of NaN, and solves by reference again. @pre FP8.
  void set_nan(std::int64_t i);
  /// Fills the outputs with something else.
  void spoil();
  /// What differs from the reference; empty when nothing does.
  [[nodiscard]] std::string difference(const DeviceResult& result) const;

 private:
  struct Outputs {
    std::vector<std::byte> codes, scale, zero;
  };
  void encode_weights(std::mt19937_64& random);
  void decode_weights();
  void place_slabs();
  void solve_by_reference();
  void solve_groups(const GroupBlock& block, std::uint8_t* codes, std::vector<float>& scale, std::vector<float>& zero);
  [[nodiscard]] WeightRange range() const;

  TileSpec spec_;
  GroupedShape grouped_;
  std::vector<std::byte> weights_;
  std::vector<std::byte> stored_, scales_;  // codes, from offset_ on, and their scales
  std::vector<float> importance_;
  std::size_t offset_ = 0;
  DeviceTile tile_;
  Outputs got_, wanted_;
  SolveStats stats_;
  DeviceOutcome outcome_ = DeviceOutcome::kDone;
};

/// A random way to solve for each width, axis and group size, so that each of these comes up.
[[nodiscard]] std::vector<TileSpec> grid_of_specs(std::mt19937_64& random);
/// The same for als.
[[nodiscard]] std::vector<TileSpec> grid_of_als_specs(std::mt19937_64& random);
/// The same for whole zeros.
[[nodiscard]] std::vector<TileSpec> grid_of_whole_specs(std::mt19937_64& random);
/// One for every way that weights may be coded in, of any search.
[[nodiscard]] std::vector<TileSpec> grid_of_coded_specs(std::mt19937_64& random);
/// Some for floating-point grids.
[[nodiscard]] std::vector<TileSpec> float_specs(std::mt19937_64& random);
/// A random one of them.
[[nodiscard]] TileSpec random_spec(std::mt19937_64& random);

}  // namespace halfquad::test
