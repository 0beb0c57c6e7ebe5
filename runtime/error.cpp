#include "runtime/error.h"

namespace halfquad {

Error::Error(ErrorCode code, const std::string& what, SourceLocation where)
    : std::runtime_error(what), code_(code), where_(where) {}

}  // namespace halfquad
