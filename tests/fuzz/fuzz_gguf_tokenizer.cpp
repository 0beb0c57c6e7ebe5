#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include "runtime/error.h"
#include "sharding/formats/gguf_tokenizer.h"

/// The first byte picks the file that the others are: a SentencePiece model, a tokenizer.json or a
/// tokenizer_config.json. Either kBadInput, or as many tokens as the embedding has rows.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kRows = 64;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  halfquad::GgufTokenizerFiles files;
  if (data[0] == 'm') {
    files.tokenizer_model = text;
  } else if (data[0] == 'j') {
    files.tokenizer_json = text;
  } else {
    files.tokenizer_json = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}})";
    files.tokenizer_config = text;
  }
  const boost::json::object config = {{"architectures", boost::json::array{"LlamaForCausalLM"}}};
  try {
    const halfquad::GgufTokenizer made = halfquad::make_gguf_tokenizer(config, files, kRows);
    for (const halfquad::GgufKey& key : made.keys) {
      if (key.name != "tokenizer.ggml.tokens") continue;
      const auto& tokens = std::get<halfquad::GgufArray>(key.value);
      if (std::get<std::vector<std::string>>(tokens).size() != kRows) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
