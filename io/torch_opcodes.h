#pragma once

#include <string>

namespace halfquad {

/// The name that Python's pickletools gives to a pickle's instruction, "0x.." for one that does not exist.
[[nodiscard]] std::string opcode_name(unsigned char code);

}  // namespace halfquad
