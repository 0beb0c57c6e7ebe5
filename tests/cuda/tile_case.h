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

/// A small tensor, solved as one tile, and how.
struct TileSpec {
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;  ///< Of the tensor.
  DType source = DType::kF32;
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
  /// The memory of the weights, and of the codes.
  [[nodiscard]] std::span<std::byte> weights() noexcept { return weights_; }
  [[nodiscard]] std::span<std::byte> codes() noexcept { return got_.codes; }
  [[nodiscard]] DeviceOutcome outcome() const noexcept { return outcome_; }
  /// Overwrites weight `i` and solves by reference again.
  void set_weight(std::int64_t i, float value);
  /// Fills the outputs with something else.
  void spoil();
  /// What differs from the reference; empty when nothing does.
  [[nodiscard]] std::string difference(const DeviceResult& result) const;

 private:
  struct Outputs {
    std::vector<std::byte> codes, scale, zero;
  };
  void solve_by_reference();
  void solve_groups(const GroupBlock& block, std::uint8_t* codes, std::vector<float>& scale, std::vector<float>& zero);
  [[nodiscard]] WeightRange range() const;

  TileSpec spec_;
  GroupedShape grouped_;
  std::vector<std::byte> weights_;
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
/// A random one of them.
[[nodiscard]] TileSpec random_spec(std::mt19937_64& random);

}  // namespace halfquad::test
