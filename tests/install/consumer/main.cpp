// Uses one function of every room, so that a library or dependency missing from the installed package fails to link.
#include <cstdio>
#include <optional>
#include <string>

#include "io/safetensors_header.h"
#include "kernels/quant_spec.h"
#include "runtime/error.h"
#include "sharding/rules.h"

int main() {
  const std::optional<std::string> refusal = halfquad::why_not(halfquad::QuantSpec{}, 3, 100);
  const halfquad::Rule rule = halfquad::parse_rule("layers\\.0\\.=bits:3");
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const halfquad::SafetensorsHeader parsed = halfquad::parse_safetensors_header(header, 8, "consumer");
  bool caught = false;
  try {
    (void)halfquad::parse_safetensors_header("{", 8, "consumer");
  } catch (const halfquad::Error& error) {
    caught = error.code() == halfquad::ErrorCode::kBadInput;
  }
  const bool ok = refusal.has_value() && rule.pattern == "layers\\.0\\." && parsed.tensors.size() == 1 && caught;
  std::puts(ok ? "consumer: all well" : "consumer: unexpected result");
  return ok ? 0 : 1;
}
