#include "sharding/source_digest.h"

#include <fmt/format.h>

#include "io/block_digest.h"
#include "sharding/wire.h"

namespace halfquad {

std::string source_digest(const Checkpoint& checkpoint) {
  WireWriter out;
  for (const SourceFile& file : checkpoint.files()) {
    out.put(file.name);
    out.put(file.bytes);
    out.put(file.header_digest);
  }
  return fmt::format("{:016x}", BlockDigest::hash(out.take()));
}

}  // namespace halfquad
