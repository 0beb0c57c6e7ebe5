#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/solver.h"

namespace halfquad::test {

/// One tensor of a golden file.
struct GoldenTensor {
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  [[nodiscard]] std::vector<float> floats() const;  ///< @pre F32.
};
using GoldenFile = std::map<std::string, GoldenTensor>;

/// A minimal reader for files that are trusted: our own goldens.
[[nodiscard]] GoldenFile read_golden_file(const std::filesystem::path& path);

/// What one of the two sources says about the steps of a case.
struct GoldenSteps {
  int steps = 0;
  bool stopped_early = false;
  std::vector<float> mean_abs_e;
};

struct GoldenCase {
  std::string name;
  std::string input;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  QuantSpec spec;
  GoldenSteps library;
  GoldenSteps canonical;
  double stop_gap = 0;  ///< Infinite when nothing could stop.
  bool inert = true;
  std::int64_t grouped_rows = 0;
  std::int64_t grouped_cols = 0;
  std::string packing;
};

/// The 350 results of the published library and of the canonical arithmetic, under tests/golden/hqq.
struct HqqGoldens {
  std::vector<GoldenCase> cases;
  GoldenFile inputs;
  GoldenFile expected;
  GoldenFile canonical;
};
[[nodiscard]] HqqGoldens read_hqq_goldens();

/// Expects (GoogleTest) of `solver` that every case equals the canonical results byte for byte and the library within
/// the tolerances of its README. `groups_per_block`: how the tensor is cut; 0: not at all.
void expect_hqq_goldens(Solver& solver, const HqqGoldens& goldens, std::int64_t groups_per_block = 0);

}  // namespace halfquad::test
