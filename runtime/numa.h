#pragma once

#include <set>
#include <string>
#include <string_view>

namespace halfquad {

/// Whether a PCI device ("0000:3b:00.0") is attached to the memory of the cores this process is bound to. A machine
/// that does not tell, or a process bound to none in particular, has no device near.
[[nodiscard]] bool is_near_this_process(std::string_view bus_id);

/// "0-3,8,10-11" -> {0, 1, 2, 3, 8, 10, 11}: the lists of the system's files. Empty for what is none.
[[nodiscard]] std::set<int> parse_cpu_list(std::string_view text);

}  // namespace halfquad
