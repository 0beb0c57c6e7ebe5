#include "sharding/formats/hqq_config.h"

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sharding/formats/hqq_keys.h"
#include "sharding/formats/row_format.h"

namespace halfquad {
namespace {

boost::json::object weight_quant_params(const QuantSpec& spec) {
  boost::json::object params;
  if (spec.width == CodeWidth::k1_58) {
    params["nbits"] = 1.58;
  } else {
    params["nbits"] = static_cast<std::int64_t>(bits_of(spec.width));
  }
  params["channel_wise"] = spec.channel_wise;
  if (spec.channel_wise && spec.group_size != 0) {
    params["group_size"] = spec.group_size;
  } else {
    params["group_size"] = nullptr;
  }
  params["optimize"] = hqq_optimize(spec);
  params["round_zero"] = spec.round_zero;
  params["axis"] = spec.axis;
  params["view_as_float"] = false;
  return params;
}

}  // namespace

boost::json::object hqq_config(const Checkpoint& checkpoint, std::span<const Decision> decisions) {
  boost::json::object quant_config;
  quant_config["weight_quant_params"] = weight_quant_params(most_frequent_spec(decisions));
  quant_config["scale_quant_params"] = nullptr;
  quant_config["zero_quant_params"] = nullptr;
  quant_config["offload_meta"] = false;

  boost::json::array skip;
  for (const std::string& module : unquantized_modules(checkpoint, decisions)) skip.emplace_back(module);

  boost::json::object quantization;
  quantization["quant_config"] = std::move(quant_config);
  quantization["quant_method"] = "hqq";
  quantization["skip_modules"] = std::move(skip);

  boost::json::object config = checkpoint.config().value_or(boost::json::object{});
  config["quantization_config"] = std::move(quantization);
  return config;
}

std::vector<std::pair<std::string, std::string>> skip_conflicts(const Checkpoint& checkpoint,
                                                                std::span<const Decision> decisions) {
  const std::vector<std::string> skip = unquantized_modules(checkpoint, decisions);
  const std::unordered_set<std::string_view> entries(skip.begin(), skip.end());
  std::set<std::size_t> lengths;
  for (const std::string& entry : skip) lengths.insert(entry.size());

  // Every substring of a module is looked up, since models can have 100,000 of both.
  std::vector<std::pair<std::string, std::string>> conflicts;
  for (const Decision& decision : decisions) {
    if (!decision.quantize()) continue;
    const std::string_view module = module_of(checkpoint.tensors()[decision.source].name);
    std::set<std::string_view> found;
    for (const std::size_t length : lengths) {
      for (std::size_t begin = 0; begin + length <= module.size(); ++begin) {
        const std::string_view part = module.substr(begin, length);
        if (entries.contains(part)) found.insert(part);
      }
    }
    for (const std::string_view entry : found) conflicts.emplace_back(entry, module);
  }
  return conflicts;
}

}  // namespace halfquad
