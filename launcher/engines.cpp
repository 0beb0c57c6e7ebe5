#include "launcher/engines.h"

#include <algorithm>
#include <array>

namespace halfquad {
namespace {

constexpr std::array kSupport = {
    FormatSupport{"hqq", "all widths, both axes",
                  "the hqq library 0.2.8; transformers 4.57 `from_pretrained(..., dtype=torch.float32)`"},
    FormatSupport{"compressed-tensors",
                  "2-8 bit, groups of 16-128 or rows, whole zeros or `--symmetric`; `--type nvfp4`, `mxfp4`",
                  "vLLM; transformers 5 with `CompressedTensorsConfig(run_compressed=False)`"},
    FormatSupport{"mlx", "2, 3, 4, 5, 6, 8 bit, groups of 32, 64, 128", "mlx-lm", true},
    FormatSupport{"torchao", "4 bit, groups of 32-256 (128 for vLLM's fast kernels)",
                  "transformers 5 and vLLM with torchao 0.15 or newer"},
    FormatSupport{"awq", "4 bit, groups of 16-128, whole zeros", "vLLM, mlx-lm, AutoAWQ"},
    FormatSupport{"gptq", "2, 3, 4, 8 bit, whole zeros or `--symmetric`; version 2",
                  "GPTQModel; vLLM takes `--symmetric` of 4 and 8 bit only"},
    FormatSupport{
        "gguf",
        "1-5 bit as Q4_1 and Q5_1, 8 bit as Q8_0, `--symmetric` as Q4_0 and Q5_0; groups of 32 and multiples; "
        "`--type Q2_K` to `Q6_K`, `--type mxfp4`, `nvfp4`, `--mixture Q4_K_M` and the like",
        "llama.cpp", true},
    FormatSupport{
        "hdf5",
        "all widths; tables of values: `--type fp4-e2m1`, `fp3-e2m0`, `fp3-e1m1`, `nf4`, `learned4`, `learned3`",
        "h5py, h5dump: ten lines in `io/FORMAT.md` give a layer back", true},
};

}  // namespace

std::span<const FormatSupport> format_support() { return kSupport; }

bool holds_vocabulary(std::string_view format) {
  const auto* const found = std::ranges::find(kSupport, format, &FormatSupport::format);
  return found != kSupport.end() && found->vocabulary;
}

std::string loaded_by(std::string_view format) {
  const auto* const found = std::ranges::find(kSupport, format, &FormatSupport::format);
  if (found == kSupport.end()) return {};
  std::string text(found->loaded_by);
  std::erase(text, '`');
  return text;
}

}  // namespace halfquad
