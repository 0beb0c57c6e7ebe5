#include "runtime/error.h"

namespace halfquad {

Error::Error(ErrorCode code, const std::string& what, std::source_location where)
    : std::runtime_error(what), code_(code), where_(where) {}

}  // namespace halfquad
