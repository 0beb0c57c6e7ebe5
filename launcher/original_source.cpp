#include "launcher/original_source.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "runtime/check.h"
#include "sharding/plain_model.h"
#include "sharding/quantized_model.h"
#include "sharding/source_model.h"

namespace halfquad {

Checkpoint open_original(FileSystem& fs, const std::string& path, SourceKind kind) {
  if (kind == SourceKind::kCheckpoint) return open_source(fs, path);
  const QuantizedModel original(fs, path);
  HALFQUAD_REQUIRE(original.format().keeps_names(), kUsage,
                   fmt::format("--source: the output was converted from a {} file, whose names are not its own; leave "
                               "--source out",
                               original.format().name()));
  PlainModel plain = plain_model(original);
  std::vector<SourceTensor> tensors;
  for (PlainTensor& tensor : plain.tensors) tensors.push_back(std::move(tensor.tensor));
  const auto files = original.checkpoint().files();
  return Checkpoint::of_parts({files.begin(), files.end()}, original.checkpoint().is_single_file(), std::move(tensors),
                              std::move(plain.config));
}

}  // namespace halfquad
