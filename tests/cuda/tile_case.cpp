#include "tests/cuda/tile_case.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/fp8.h"
#include "kernels/pack.h"
#include "runtime/checked.h"
#include "tests/support/solve_stored.h"

namespace halfquad::test {
namespace {

constexpr std::size_t kCanaries = 64;
constexpr std::byte kCanary{0xA5};

constexpr CodeWidth kWidths[] = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                 CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
// 0: whole rows or columns.
constexpr std::int64_t kGroupSizes[] = {1, 8, 24, 32, 40, 64, 100, 128, 257, 0};
constexpr DType kSources[] = {DType::kBF16, DType::kF16, DType::kF32, DType::kF64};
constexpr DType kStored[] = {DType::kF16, DType::kF32, DType::kBF16};

template <class T, std::size_t kCount>
const T& pick(std::mt19937_64& random, const T (&from)[kCount]) {
  return from[random() % kCount];
}

std::vector<std::byte> with_canaries(std::int64_t bytes) {
  return std::vector<std::byte>(static_cast<std::size_t>(bytes) + kCanaries, kCanary);
}

std::vector<std::byte> stored_as(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes = with_canaries(static_cast<std::int64_t>(values.size()) * bytes_of(dtype));
  encode_from_f32(values.data(), dtype, static_cast<std::int64_t>(values.size()), bytes.data());
  return bytes;
}

bool all_storable(DType dtype, const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [&](float v) { return std::isfinite(round_to(dtype, v)); });
}

bool same(const ErrorSums& a, const ErrorSums& b) {
  return a.abs == b.abs && a.square == b.square && a.weight2 == b.weight2 && a.max_abs == b.max_abs &&
         a.weighted_square == b.weighted_square && a.weighted_weight2 == b.weighted_weight2;
}

/// A tensor of about `weights` weights in groups of `group_size`, if the packing allows one.
void choose_shape(TileSpec& spec, std::int64_t weights, std::mt19937_64& random) {
  const auto slabs = static_cast<std::int64_t>(spec.unpacked ? 1 : slabs_of(packing_of(spec.spec.width)));
  const std::int64_t elems = spec.spec.group_size != 0 ? spec.spec.group_size : 1000 + static_cast<int>(random() % 9);
  const std::int64_t units = 1 + weights / elems / slabs + static_cast<std::int64_t>(random() % 3);
  std::int64_t groups = units * slabs;
  if (slabs == 10 && groups > 20) groups -= static_cast<std::int64_t>(random() % 20);  // padding, of two slabs even
  if (spec.spec.axis == 1 || !spec.spec.channel_wise) {
    const std::int64_t wider =
        spec.spec.group_size != 0 && groups % 3 == 0 ? 3 : 1;                  // groups in a row, or rows in a ...
    const bool straddles = wider == 3 && elems % 2 == 0 && random() % 2 == 0;  // ... group, a half
    spec.rows = straddles ? groups / wider * 2 : groups / wider;
    spec.cols = straddles ? elems * wider / 2 : elems * wider;
  } else {
    spec.rows = spec.spec.group_size != 0 ? elems : (elems + slabs - 1) / slabs * slabs;
    spec.cols = groups;
  }
}

void choose_rest(TileSpec& spec, std::mt19937_64& random) {
  constexpr double kNorms[] = {0.7, 0.7, 0.7, 0.5, 0.15, 1.0};
  spec.source = pick(random, kSources);
  spec.stored = pick(random, kStored);
  spec.spec.round_zero = random() % 4 == 0;
  spec.spec.solver = random() % 8 == 0 ? SolverKind::kRtn : SolverKind::kHqq;
  spec.spec.lp_norm = pick(random, kNorms);
  spec.spec.beta = random() % 4 == 0 ? 1.0 : 10.0;
  spec.spec.kappa = random() % 4 == 0 ? 1.3 : 1.01;
  constexpr int kIters[] = {1, 7, 20, 20, 35, 70};
  spec.iters = spec.spec.iters = pick(random, kIters);
  spec.record = random() % 3 == 0 ? RecordErrors::kNo : RecordErrors::kYes;
  spec.kind = static_cast<Weights>(random() % 2 == 0 ? random() % 3 : random() % kWeightsKinds);
  spec.scale = std::pow(10.0, std::uniform_real_distribution<double>(-3.0, 1.0)(random));
}

void choose_form(TileSpec& spec, std::mt19937_64& random) {
  if (spec.spec.axis != 1 || !spec.spec.channel_wise || random() % 4 == 0) return;
  constexpr float kMiddles[] = {0, 8};
  spec.form = DeviceTile::StoredForm{random() % 3 != 0, pick(random, kMiddles)};
}

void choose_als(TileSpec& spec, std::mt19937_64& random) {
  constexpr int kStarts[] = {5, 5, 1, 2, 9};
  constexpr int kRounds[] = {4, 4, 1, 20};
  spec.spec.solver = SolverKind::kAls;
  spec.spec.starts = pick(random, kStarts);
  spec.spec.rounds = pick(random, kRounds);
  spec.record = RecordErrors::kNo;
  spec.weighed = random() % 4 != 0;
}

/// Whole rows of groups on a floating-point grid.
void choose_floats(TileSpec& spec, std::mt19937_64& random) {
  const bool is_nvfp4 = random() % 2 == 0;
  spec.spec = {};
  spec.spec.grid = is_nvfp4 ? FloatGrid::kNvfp4 : FloatGrid::kMxfp4;
  spec.spec.group_size = is_nvfp4 ? 16 : 32;
  spec.spec.zeros = ZeroKind::kSymmetric;
  spec.spec.solver = random() % 4 == 0 ? SolverKind::kRtn : SolverKind::kAls;
  spec.cols = spec.spec.group_size * static_cast<std::int64_t>(1 + random() % 9);
  spec.rows = 1 + static_cast<std::int64_t>(random() % 60);
  spec.stored = DType::kF32;
  spec.record = RecordErrors::kNo;
  spec.form.reset();
  spec.unpacked = true;
  spec.weighed = random() % 3 != 0;
}

void choose_whole(TileSpec& spec, std::mt19937_64& random) {
  constexpr int kIters[] = {20, 20, 1, 2, 3, 4};
  if (random() % 2 == 0) {
    choose_als(spec, random);
    if (random() % 4 == 0) {
      spec.spec.importance = Importance::kNone;
      spec.weighed = false;
    }
  }
  spec.spec.zeros = random() % 2 == 0 ? ZeroKind::kSymmetric : ZeroKind::kInteger;
  spec.iters = spec.spec.iters = pick(random, kIters);
  spec.record = RecordErrors::kNo;
}

constexpr DType kCodes[] = {DType::kF8E4M3, DType::kF8E5M2, DType::kI8};
constexpr DType kScales[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E8M0};
enum class Blocks { kTensor, kRows, kGroups, kSquares, kOdd };
constexpr Blocks kBlocks[] = {Blocks::kTensor, Blocks::kRows, Blocks::kGroups, Blocks::kSquares, Blocks::kOdd};

void set_coded(TileSpec& spec, DType dtype, DType scale_dtype, Blocks blocks) {
  spec.source = DType::kF32;
  spec.coded = CodedSpec{dtype, scale_dtype, 128, 128};
  if (blocks == Blocks::kSquares) return;
  spec.coded->block_rows = blocks == Blocks::kTensor ? spec.rows : blocks == Blocks::kOdd ? 3 : 1;
  spec.coded->block_cols = blocks == Blocks::kGroups ? 32 : blocks == Blocks::kOdd ? 7 : spec.cols;
}

void choose_coded(TileSpec& spec, std::mt19937_64& random) {
  if (spec.spec.axis == 0 && spec.spec.channel_wise) return;
  set_coded(spec, pick(random, kCodes), pick(random, kScales), pick(random, kBlocks));
}

/// The code nearest to `value`, or about so; finite.
std::uint8_t code_of(DType dtype, float value) {
  if (dtype == DType::kF8E4M3) return f32_to_e4m3(value);
  if (dtype == DType::kF8E5M2) return static_cast<std::uint8_t>(f32_to_f16(std::clamp(value, -5e4F, 5e4F)) >> 8U);
  return static_cast<std::uint8_t>(static_cast<std::int8_t>(std::lround(std::clamp(value, -128.0F, 127.0F))));
}

/// A code of any meaning that is a number.
std::uint8_t any_code(DType dtype, std::mt19937_64& random) {
  while (true) {
    const auto code = static_cast<std::uint8_t>(random());
    if (dtype == DType::kF8E4M3 && (code & 0x7FU) == 0x7F) continue;
    if (dtype == DType::kF8E5M2 && (code & 0x7CU) == 0x7C) continue;
    return code;
  }
}

/// About `value`, as one element of `dtype`; now and then as near to zero as that has.
void put_scale(DType dtype, float value, std::mt19937_64& random, std::byte* to) {
  const bool tiny = random() % 64 == 0;
  if (dtype == DType::kF8E8M0) {
    *to = static_cast<std::byte>(tiny ? random() % 2 : std::bit_cast<std::uint32_t>(value) >> 23U);
  } else {
    const float least = dtype == DType::kF16 ? 0x1p-24F : 0x1p-133F;
    const float scale = tiny ? least : value;
    encode_from_f32(&scale, dtype, 1, to);
  }
}

/// For each width and group size one that `choose_search` completes.
std::vector<TileSpec> grid_of_row_specs(std::mt19937_64& random,
                                        void (&choose_search)(TileSpec& spec, std::mt19937_64& random)) {
  std::vector<TileSpec> specs;
  for (const CodeWidth width : kWidths) {
    for (const std::int64_t group_size : kGroupSizes) {
      TileSpec spec;
      spec.spec.width = width;
      spec.spec.group_size = group_size;
      spec.unpacked = random() % 3 == 0;
      choose_shape(spec, 4000, random);
      choose_rest(spec, random);
      choose_form(spec, random);
      choose_search(spec, random);
      if (possible(spec)) specs.push_back(spec);
    }
  }
  return specs;
}

}  // namespace

std::string describe(const TileSpec& s) {
  return std::to_string(s.rows) + " x " + std::to_string(s.cols) + " " + std::string(name_of(s.source)) + " " +
         name_of(s.kind) + " of scale " + std::to_string(s.scale) + ", " + std::string(name_of(s.spec.width)) +
         " bits, groups of " + std::to_string(s.spec.group_size) + ", axis " + std::to_string(s.spec.axis) +
         (s.spec.channel_wise ? "" : ", per tensor") + ", " + std::string(name_of(s.spec.solver)) + ", p " +
         std::to_string(s.spec.lp_norm) + ", beta " + std::to_string(s.spec.beta) + ", kappa " +
         std::to_string(s.spec.kappa) + ", " + std::to_string(s.iters) + " steps" +
         (s.record == RecordErrors::kYes ? ", recorded" : "") + (s.spec.round_zero ? ", round zero" : "") +
         ", stored " + std::string(name_of(s.stored)) +
         (s.form ? std::string(s.form->offset ? " as offset from " : " as zero ") + std::to_string(s.form->middle)
                 : "") +
         (s.spec.zeros == ZeroKind::kFloat     ? ""
          : s.spec.zeros == ZeroKind::kInteger ? ", whole zeros"
                                               : ", symmetric") +
         (s.spec.importance == Importance::kNone ? ", columns alike" : "") + (s.unpacked ? ", unpacked" : "") +
         (s.weighed ? ", weighed" : "") + ", grid " + std::string(name_of(s.spec.grid)) +
         (s.coded ? ", from " + std::string(name_of(s.coded->dtype)) + " in blocks of " +
                        std::to_string(s.coded->block_rows) + " x " + std::to_string(s.coded->block_cols) +
                        " scaled by " + std::string(name_of(s.coded->scale_dtype))
                  : "") +
         (s.spec.solver == SolverKind::kAls
              ? ", " + std::to_string(s.spec.starts) + " starts of " + std::to_string(s.spec.rounds) + " rounds"
              : "");
}

bool possible(const TileSpec& spec) {
  return !(spec.unpacked ? why_not_grouped : why_not)(spec.spec, spec.rows, spec.cols).has_value();
}

TileCase::TileCase(const TileSpec& spec, std::mt19937_64& random)
    : spec_(spec), grouped_(grouped_shape(spec.spec, spec.rows, spec.cols)) {
  const std::int64_t element = bytes_of(spec.source);
  const std::int64_t count = grouped_.rows * grouped_.cols;
  offset_ = static_cast<std::size_t>(element) * (random() % 8);
  weights_.resize(offset_ + static_cast<std::size_t>(count * element));
  const bool by_columns = spec.spec.axis == 0 && spec.spec.channel_wise;
  const BlockShape shape{.groups = grouped_.groups, .group_elems = grouped_.group_elems};
  const std::vector<double> values = random_weights(random, shape, spec.kind, spec.scale);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t from = by_columns ? i % grouped_.cols * grouped_.rows + i / grouped_.cols : i;
    const double value = values[static_cast<std::size_t>(from)];
    const auto narrow = static_cast<float>(value);
    std::byte* const to = weights_.data() + offset_ + i * element;
    if (spec.source == DType::kF64) {
      std::memcpy(to, &value, sizeof value);
    } else {
      encode_from_f32(&narrow, spec.source, 1, to);
    }
  }

  if (spec.weighed) {
    std::uniform_real_distribution<float> decades(-2, 4);
    for (std::int64_t i = 0; i < spec.cols; ++i) importance_.push_back(std::pow(10.0F, decades(random)));
  }
  tile_.unpacked = spec.unpacked;
  tile_.spec = spec.spec;
  const Packing packing = packing_of(tile_);
  tile_.source = spec.source;
  tile_.stored = spec.stored;
  tile_.iters = spec.iters;
  tile_.record = spec.record;
  tile_.form = spec.form;
  tile_.importance = importance_;
  tile_.by_columns = by_columns;
  tile_.cols = grouped_.cols;
  tile_.packed_rows = packed_rows(packing, grouped_.rows);
  if (spec.coded) encode_weights(random);
  if (spec.spec.has_tensor_scale()) {
    const WeightRange all = range();
    tile_.tensor_scale = tensor_scale_of(std::max(std::fabs(all.lo), std::fabs(all.hi)));
  }
  place_slabs();
  if (!spec.spec.channel_wise) tile_.grid = start_grid(range(), spec.spec.width, spec.spec.round_zero);
  solve_by_reference();
  got_ = wanted_;
  tile_.codes = got_.codes.data();
  tile_.scale = got_.scale.data();
  tile_.zero = got_.zero.data();
  spoil();
}

void TileCase::place_slabs() {
  const std::int64_t element = spec_.coded ? 1 : bytes_of(spec_.source);
  const std::byte* const first = (spec_.coded ? stored_ : weights_).data() + offset_;
  tile_.slabs.clear();
  if (tile_.by_columns) {
    tile_.slabs.push_back({first, grouped_.rows});
    return;
  }
  for (std::int64_t row = 0; row < grouped_.rows; row += tile_.packed_rows) {
    const std::int64_t before = row * grouped_.cols;
    DeviceTile::Slab& slab = tile_.slabs.emplace_back();
    slab.data = first + before * element;
    slab.rows = std::min(grouped_.rows - row, tile_.packed_rows);
    slab.first_col = before % spec_.cols;
    if (!spec_.coded) continue;
    slab.first_row = before / spec_.cols;
    const std::int64_t end_row = ceil_div(before + slab.rows * grouped_.cols, spec_.cols);
    const std::int64_t begin = slab.first_row / spec_.coded->block_rows;
    const std::int64_t end = ceil_div(end_row, spec_.coded->block_rows);
    const std::int64_t line = ceil_div(spec_.cols, spec_.coded->block_cols) * bytes_of(spec_.coded->scale_dtype);
    slab.scales = std::span(scales_).subspan(static_cast<std::size_t>(begin * line),
                                             static_cast<std::size_t>((end - begin) * line));
  }
  tile_.slabs.resize(static_cast<std::size_t>(slabs_of(packing_of(tile_))));
}

void TileCase::encode_weights(std::mt19937_64& random) {
  const CodedSpec& coded = *spec_.coded;
  tile_.coded = {coded.dtype, coded.scale_dtype, spec_.cols, coded.block_rows, coded.block_cols};
  const std::int64_t count = spec_.rows * spec_.cols, element = bytes_of(coded.scale_dtype);
  const std::int64_t line = ceil_div(spec_.cols, coded.block_cols);
  const auto* const values = reinterpret_cast<const float*>(weights_.data() + offset_);
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
  const float usual = std::clamp(most / 100, 0x1p-14F, 0x1p14F);
  scales_.resize(static_cast<std::size_t>(ceil_div(spec_.rows, coded.block_rows) * line * element));
  for (std::size_t at = 0; at < scales_.size(); at += static_cast<std::size_t>(element)) {
    const float value = usual * (1.0F + static_cast<float>(random() % 1000) / 1000);
    put_scale(coded.scale_dtype, value, random, scales_.data() + at);
  }
  const bool any = random() % 4 == 0;
  stored_.resize(offset_ + static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    stored_[offset_ + static_cast<std::size_t>(i)] =
        static_cast<std::byte>(any ? any_code(coded.dtype, random) : code_of(coded.dtype, values[i] / usual));
  }
  decode_weights();
}

void TileCase::decode_weights() {
  const CodedSpec& coded = *spec_.coded;
  decode_fp8_rows(stored_.data() + offset_, coded.dtype, {0, spec_.rows, spec_.cols},
                  {scales_.data(), coded.scale_dtype, coded.block_rows, coded.block_cols},
                  reinterpret_cast<float*>(weights_.data() + offset_));
}

void TileCase::set_nan(std::int64_t i) {
  stored_[offset_ + static_cast<std::size_t>(i)] = std::byte{0x7F};
  decode_weights();
  solve_by_reference();
}

WeightRange TileCase::range() const {
  return make_reference_solver()->range(weights_.data() + offset_, spec_.source, grouped_.rows * grouped_.cols);
}

void TileCase::set_weight(std::int64_t i, float value) {
  const double wide = value;
  std::byte* const to = weights_.data() + offset_ + i * bytes_of(spec_.source);
  if (spec_.source == DType::kF64) {
    std::memcpy(to, &wide, sizeof wide);
  } else {
    encode_from_f32(&value, spec_.source, 1, to);
  }
  solve_by_reference();
}

void TileCase::spoil() {
  for (std::vector<std::byte>* bytes : {&got_.codes, &got_.scale, &got_.zero}) {
    std::fill(bytes->begin(), bytes->end() - kCanaries, std::byte{0x5A});
  }
}

void TileCase::solve_groups(const GroupBlock& block, std::uint8_t* codes, std::vector<float>& scale,
                            std::vector<float>& zero) {
  const std::unique_ptr<Solver> solver = make_reference_solver();
  const SolveTarget target{codes, block.group_stride, block.element_stride, scale.data(), zero.data()};
  if (tile_.grid) {
    solver->encode(block, spec_.spec.width, *tile_.grid, spec_.stored, target, stats_);
    return;
  }
  if (tile_.spec.grid != FloatGrid::kNone) {
    solve_floats(*solver, *make_reference_float_searcher(), tile_, block, target, stats_);
  } else if (tile_.form) {
    solve_stored(*solver, tile_, block, target, stats_);
  } else {
    solver->solve(block, request_of(tile_), target, stats_);
  }
}

void TileCase::solve_by_reference() {
  const Packing packing = packing_of(tile_);
  const auto slabs = static_cast<std::size_t>(slabs_of(packing));
  const std::int64_t slab_codes = tile_.packed_rows * grouped_.cols;
  std::vector<std::uint8_t> codes(slabs * static_cast<std::size_t>(slab_codes), 0);
  std::vector<float> scale(static_cast<std::size_t>(grouped_.groups)), zero(scale.size());
  stats_ = {};
  if (spec_.record == RecordErrors::kYes) stats_.step_abs.resize(static_cast<std::size_t>(spec_.iters));
  const bool columns = tile_.by_columns;
  solve_groups({weights_.data() + offset_,
                spec_.source,
                grouped_.groups,
                grouped_.group_elems,
                columns ? 1 : grouped_.cols,
                columns ? grouped_.cols : 1,
                {importance_.empty() ? nullptr : importance_.data(), spec_.cols, 0}},
               codes.data(), scale, zero);

  outcome_ = DeviceOutcome::kDone;
  if (!tile_.grid && !(all_storable(spec_.stored, scale) && all_storable(spec_.stored, zero))) {
    outcome_ = DeviceOutcome::kUnstorable;
  }
  if (stats_.nonfinite) outcome_ = DeviceOutcome::kNonfinite;
  if (tile_.grid) scale.clear(), zero.clear();
  wanted_.scale = stored_as(spec_.stored, scale);
  wanted_.zero = stored_as(spec_.stored, zero);
  std::vector<const std::uint8_t*> from;
  for (std::size_t slab = 0; slab < slabs; ++slab)
    from.push_back(codes.data() + static_cast<std::int64_t>(slab) * slab_codes);
  wanted_.codes = with_canaries(slab_codes * packed_bytes_of(packing));
  pack_codes(packing, from, slab_codes, wanted_.codes.data());
}

std::string TileCase::difference(const DeviceResult& result) const {
  if (result.outcome != outcome_) {
    return "outcome " + std::to_string(static_cast<int>(result.outcome)) + " instead of " +
           std::to_string(static_cast<int>(outcome_));
  }
  if (outcome_ != DeviceOutcome::kDone) return "";
  if (got_.codes != wanted_.codes) return "codes";
  if (got_.scale != wanted_.scale) return "scales";
  if (got_.zero != wanted_.zero) return "zeros";
  if (result.step_abs.size() != stats_.step_abs.size()) return "number of steps";
  for (std::size_t t = 0; t < stats_.step_abs.size(); ++t) {
    if (!(result.step_abs[t] == stats_.step_abs[t])) return "error before step " + std::to_string(t);
  }
  if (!same(result.error, stats_.final_error)) return "errors";
  if (result.settled > stats_.settled) return "settled";
  return "";
}

TileSpec random_spec(std::mt19937_64& random) {
  TileSpec spec;
  do {
    spec = {};
    spec.unpacked = random() % 4 == 0;
    spec.spec.width = pick(random, kWidths);
    spec.spec.axis = static_cast<int>(random() % 2);
    spec.spec.channel_wise = random() % 10 != 0;
    spec.spec.group_size = pick(random, kGroupSizes);
    if (spec.unpacked) spec.spec.axis = 1, spec.spec.channel_wise = true;
    choose_shape(spec, 1 + static_cast<std::int64_t>(random() % 9000), random);
    choose_rest(spec, random);
    choose_form(spec, random);
    const bool rows = spec.spec.axis == 1 && spec.spec.channel_wise;
    if (rows && random() % 3 == 0) choose_als(spec, random);
    if (rows && random() % 3 == 0) choose_whole(spec, random);
    if (random() % 6 == 0) choose_floats(spec, random);
    if (random() % 3 == 0) choose_coded(spec, random);
  } while (!possible(spec));
  return spec;
}

std::vector<TileSpec> grid_of_specs(std::mt19937_64& random) {
  std::vector<TileSpec> specs;
  for (const CodeWidth width : kWidths) {
    for (const int axis : {1, 0}) {
      for (const std::int64_t group_size : kGroupSizes) {
        TileSpec spec;
        spec.spec.width = width;
        spec.spec.axis = axis;
        spec.spec.group_size = group_size;
        choose_shape(spec, 8000, random);
        choose_rest(spec, random);
        if (possible(spec)) specs.push_back(spec);
      }
    }
    TileSpec spec;
    spec.spec.width = width;
    spec.spec.channel_wise = false;
    spec.spec.group_size = 0;
    choose_shape(spec, 8000, random);
    choose_rest(spec, random);
    if (possible(spec)) specs.push_back(spec);
  }
  return specs;
}

std::vector<TileSpec> grid_of_als_specs(std::mt19937_64& random) { return grid_of_row_specs(random, choose_als); }

std::vector<TileSpec> grid_of_whole_specs(std::mt19937_64& random) { return grid_of_row_specs(random, choose_whole); }

std::vector<TileSpec> grid_of_coded_specs(std::mt19937_64& random) {
  std::vector<TileSpec> specs;
  for (const DType dtype : kCodes) {
    for (const DType scale_dtype : kScales) {
      for (const Blocks blocks : kBlocks) {
        TileSpec spec;
        do {
          spec = random_spec(random);
        } while (spec.spec.axis == 0 && spec.spec.channel_wise);
        set_coded(spec, dtype, scale_dtype, blocks);
        specs.push_back(spec);
      }
    }
  }
  return specs;
}

std::vector<TileSpec> float_specs(std::mt19937_64& random) {
  std::vector<TileSpec> specs;
  for (int i = 0; i < 60; ++i) {
    TileSpec spec;
    choose_rest(spec, random);
    choose_floats(spec, random);
    if (random() % 4 == 0) choose_coded(spec, random);
    specs.push_back(spec);
  }
  return specs;
}

}  // namespace halfquad::test
