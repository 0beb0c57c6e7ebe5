#include "sharding/decision_board.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/float_grid.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr auto kColumnDigits = static_cast<std::size_t>(ColumnMoments::kDigits);

// Most of the `each` digits of an exact sum are zero: a mask says which are there.
void write_digits(std::span<const std::uint64_t> digits, std::size_t each, WireWriter& out) {
  for (std::size_t first = 0; first < digits.size(); first += each) {
    std::uint32_t mask = 0;
    for (std::size_t i = 0; i < each; ++i) mask |= digits[first + i] != 0 ? 1U << i : 0U;
    out.put(mask);
    for (std::size_t i = 0; i < each; ++i) {
      if (digits[first + i] != 0) out.put(digits[first + i]);
    }
  }
}

std::vector<std::uint64_t> read_digits(std::size_t count, std::size_t each, WireReader& in) {
  std::vector<std::uint64_t> digits(count * each);
  for (std::size_t first = 0; first < digits.size(); first += each) {
    const auto mask = in.get<std::uint32_t>();
    for (std::size_t i = 0; i < each; ++i) {
      if ((mask >> i & 1U) != 0) in.get(digits[first + i]);
    }
  }
  return digits;
}

ColumnMoments read_columns(std::size_t cols, WireReader& in) {
  ColumnMoments columns(static_cast<std::int64_t>(cols));
  columns.assign(read_digits(cols, kColumnDigits, in));
  return columns;
}

}  // namespace

void FirstPasses::add(FirstPasses other) {
  tiles += other.tiles;
  if (step_abs.size() < other.step_abs.size()) step_abs.resize(other.step_abs.size());
  for (std::size_t t = 0; t < other.step_abs.size(); ++t) step_abs[t].add(other.step_abs[t]);
  range.add(other.range);
  if (columns && other.columns) {
    columns->add(*other.columns);
  } else if (other.columns) {
    columns = std::move(other.columns);
  }
  if (levels && other.levels) {
    levels->add(*other.levels);
  } else if (other.levels) {
    levels = std::move(other.levels);
  }
}

void FirstPasses::write(WireWriter& out) {
  out.put(static_cast<std::uint64_t>(tensor));
  out.put(tiles);
  out.put(static_cast<std::uint64_t>(step_abs.size()));
  for (const ExactSum& sum : step_abs) out.put(sum);
  out.put(range.lo);
  out.put(range.hi);
  out.put(range.nonfinite);
  out.put(columns ? columns->cols() : std::int64_t{0});
  if (columns) write_digits(columns->digits(), kColumnDigits, out);
  out.put(levels.has_value());
  if (levels) write_digits(levels->digits(), LevelHistogram::kDigits, out);
}

FirstPasses FirstPasses::read(WireReader& in) {
  FirstPasses passes;
  passes.tensor = in.get<std::uint64_t>();
  in.get(passes.tiles);
  passes.step_abs.resize(in.count(sizeof(std::uint64_t)));
  for (ExactSum& sum : passes.step_abs) in.get(sum);
  in.get(passes.range.lo);
  in.get(passes.range.hi);
  in.get(passes.range.nonfinite);
  const std::size_t cols = in.count(sizeof(std::uint32_t));
  if (cols > 0) passes.columns = read_columns(cols, in);
  if (in.get<bool>()) {
    passes.levels = LevelHistogram::from_digits(read_digits(LevelHistogram::kBins, LevelHistogram::kDigits, in));
  }
  return passes;
}

DecisionBoard::DecisionBoard(const OutputLayout& layout, std::span<const std::optional<TensorDecision>> settled)
    : layout_(layout), tensors_(layout.quantized().size()), known_scales_(tensors_.size()) {
  for (std::size_t i = 0; i < settled.size(); ++i) {
    if (!settled[i]) continue;
    for (const std::size_t other : layout.quantized()[i].scale_with) known_scales_[other] = settled[i]->tensor_scale;
  }
}

bool DecisionBoard::has_all_tiles(std::size_t tensor) const {
  return tensors_[tensor].tiles == layout_.quantized()[tensor].tiles.tile_count();
}

std::vector<DecidedTensor> DecisionBoard::add(FirstPasses passes) {
  const std::size_t index = passes.tensor;
  FirstPasses& all = tensors_.at(index);
  const QuantizedTensor& tensor = layout_.quantized()[index];
  all.add(std::move(passes));
  HALFQUAD_REQUIRE(all.tiles <= tensor.tiles.tile_count(), kInternal,
                   "layer " + tensor.module + ": more tiles were solved than it has");
  if (!has_all_tiles(index)) return {};
  if (known_scales_[index]) return {conclude(index, *known_scales_[index])};
  if (tensor.scale_with.empty()) return {conclude(index, tensor_scale_of(tensor, all.range))};
  if (!std::ranges::all_of(tensor.scale_with, [&](std::size_t other) { return has_all_tiles(other); })) return {};
  WeightRange range;
  for (const std::size_t other : tensor.scale_with) range.add(tensors_[other].range);
  std::vector<DecidedTensor> decided;
  for (const std::size_t other : tensor.scale_with) decided.push_back(conclude(other, tensor_scale_of(tensor, range)));
  return decided;
}

DecidedTensor DecisionBoard::conclude(std::size_t tensor, float tensor_scale) {
  FirstPasses& all = tensors_[tensor];
  DecidedTensor decided{tensor, decide(layout_.quantized()[tensor], all, tensor_scale)};
  const std::int64_t tiles = all.tiles;
  all = FirstPasses();
  all.tiles = tiles;
  return decided;
}

float tensor_scale_of(const QuantizedTensor& tensor, const WeightRange& range) noexcept {
  const float largest = std::max(std::abs(range.lo), std::abs(range.hi));
  switch (tensor.tensor_scale_form) {
    case TensorScaleForm::kDivisor:
      return tensor_scale_of(largest);
    case TensorScaleForm::kFactor:
      return power_of_two_scale_of(largest);
    case TensorScaleForm::kNone:
      break;
  }
  return 1;
}

TensorDecision decide(const QuantizedTensor& tensor, FirstPasses& all, float tensor_scale) {
  TensorDecision decision;
  if (tensor.wants_tensor_scale()) decision.tensor_scale = tensor_scale;
  if (tensor.wants_levels()) {
    HALFQUAD_REQUIRE(all.levels.has_value(), kInternal,
                     "layer " + tensor.module + ": nothing is known of how its weights lie");
    decision.levels = all.levels->fit(level_count(tensor.spec.grid));
  }
  if (!tensor.spec.channel_wise) {
    decision.grid = start_grid(all.range, tensor.spec.width, tensor.spec.round_zero);
    return decision;
  }
  if (tensor.weighs_columns()) {
    HALFQUAD_REQUIRE(all.columns && all.columns->cols() == tensor.cols, kInternal,
                     "layer " + tensor.module + ": nothing is known of its columns");
    decision.importance = std::make_shared<const std::vector<float>>(
        column_importance(*all.columns, tensor.rows, {.power = tensor.spec.importance_power}));
    return decision;
  }
  if (tensor.wants_whole()) return decision;
  EarlyStop stop;
  for (const ExactSum& sum : all.step_abs) {
    ++decision.steps;
    if (stop.stops(sum.mean(tensor.rows * tensor.cols))) {
      decision.stopped_early = true;
      break;
    }
  }
  return decision;
}

}  // namespace halfquad
