#pragma once

#include "sharding/format.h"

namespace halfquad {

[[nodiscard]] const Format& mlx_format() noexcept;
[[nodiscard]] const Format& compressed_tensors_format() noexcept;
[[nodiscard]] const Format& torchao_format() noexcept;
[[nodiscard]] const Format& awq_format() noexcept;
[[nodiscard]] const Format& gptq_format() noexcept;
[[nodiscard]] const Format& gguf_format() noexcept;
[[nodiscard]] const Format& hdf5_format() noexcept;

}  // namespace halfquad
