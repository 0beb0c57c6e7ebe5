#include "sharding/formats/hqq_keys.h"

#include <bit>

namespace halfquad {
namespace {

template <class Unsigned>
std::string little_endian(Unsigned value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) bytes.push_back(static_cast<char>((value >> (8 * i)) & 0xFF));
  return bytes;
}

std::string int32_bytes(std::int64_t value) { return little_endian(static_cast<std::uint32_t>(value)); }

HqqConstant flag(std::string_view key, bool on) { return {key, DType::kU8, {}, std::string(1, on ? '\1' : '\0')}; }

HqqConstant integer(std::string_view key, std::int64_t value) { return {key, DType::kI32, {}, int32_bytes(value)}; }

HqqConstant text(std::string_view key, std::string_view value) {
  return {key, DType::kU8, {static_cast<std::int64_t>(value.size())}, std::string(value)};
}

/// The library stores 1.58 bits as a float.
HqqConstant nbits(CodeWidth width) {
  if (width != CodeWidth::k1_58) return integer("nbits", static_cast<std::int64_t>(bits_of(width)));
  return {"nbits", DType::kF32, {}, little_endian(std::bit_cast<std::uint32_t>(1.58F))};
}

}  // namespace

std::string_view torch_name(DType dtype) noexcept {
  if (dtype == DType::kBF16) return "bfloat16";
  return dtype == DType::kF16 ? "float16" : "float32";
}

bool hqq_optimize(const QuantSpec& spec) noexcept { return spec.solver != SolverKind::kRtn && spec.channel_wise; }

std::vector<HqqConstant> hqq_constants(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType stored) {
  const Packing packing = packing_of(spec.width);
  std::vector<HqqConstant> constants;
  constants.reserve(16);
  constants.push_back(
      {"shape",
       DType::kI64,
       {2},
       little_endian(static_cast<std::uint64_t>(rows)) + little_endian(static_cast<std::uint64_t>(cols))});
  constants.push_back(nbits(spec.width));
  constants.push_back(integer("group_size", hqq_group_size(spec, rows, cols)));
  constants.push_back(integer("axis", spec.axis));
  constants.push_back(text("packing", name_of(packing)));
  constants.push_back(text("unpack_view_dtype", packing == Packing::k3Bit32 ? "torch.int32" : "torch.uint8"));
  constants.push_back(text("compute_dtype", "torch." + std::string(torch_name(stored))));
  constants.push_back(flag("channel_wise", spec.channel_wise));
  constants.push_back(flag("optimize", hqq_optimize(spec)));
  constants.push_back(flag("round_zero", spec.round_zero));
  for (const std::string_view key : {"view_as_float", "quant_scale", "quant_zero", "offload_meta"}) {
    constants.push_back(flag(key, false));
  }
  for (const std::string_view key : {"encoded_state_dict", "stores_quant_config"}) {
    constants.push_back(flag(key, true));
  }
  return constants;
}

std::int64_t hqq_group_size(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) noexcept {
  if (spec.channel_wise && spec.group_size != 0) return spec.group_size;
  return spec.axis == 1 ? cols : rows;
}

std::vector<std::int64_t> hqq_scale_shape(const QuantSpec& spec, std::int64_t groups) {
  if (!spec.channel_wise) return {};
  if (spec.axis == 0) return {1, groups};
  return {groups, 1};
}

DType hqq_codes_dtype(Packing packing) noexcept { return packing == Packing::k3Bit32 ? DType::kI32 : DType::kU8; }

}  // namespace halfquad
