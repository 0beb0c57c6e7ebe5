#include "io/torch_file.h"

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "io/torch_pickle.h"
#include "io/torch_zip.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::string_view kPickle = "/data.pkl";
constexpr std::uint64_t kMaxPickleBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kMaxWordBytes = 64;

[[noreturn]] void refuse(std::string_view file, std::string_view why) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", quoted(file), why));
}

/// The archive with its entries by name.
class Archive {
 public:
  Archive(ReadFile& file, std::string_view name) : file_(file), name_(name) {
    require_zip();
    for (ZipEntry& entry : read_zip_directory(file, name)) {
      // Whichever folder the pickle is in is the one of everything else.
      if (entry.name.ends_with(kPickle)) {
        if (!folder_.empty()) refuse(name, "it holds several pickles");
        folder_ = entry.name.substr(0, entry.name.size() - kPickle.size() + 1);
      }
      std::string key = entry.name;
      entries_.emplace(std::move(key), std::move(entry));
    }
    if (folder_.empty()) refuse(name, "the archive holds no data.pkl; torch.save() did not write it");
  }

  /// Nothing when there is no such entry in torch's folder.
  [[nodiscard]] const ZipEntry* find(const std::string& path) const {
    const auto found = entries_.find(folder_ + path);
    return found == entries_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] std::uint64_t offset_of(const ZipEntry& entry) const { return zip_data_offset(file_, entry, name_); }

  [[nodiscard]] std::string text_of(const ZipEntry& entry, std::uint64_t limit) const {
    if (entry.bytes > limit) refuse(name_, fmt::format("{} is longer than is sensible", quoted(entry.name)));
    const std::uint64_t offset = offset_of(entry);
    if (entry.bytes == 0) return {};
    const AlignedScratch scratch(entry.bytes);
    const std::span<const std::byte> data = file_.read(offset, entry.bytes, scratch.bytes());
    return {reinterpret_cast<const char*>(data.data()), data.size()};
  }

 private:
  void require_zip() {
    constexpr std::size_t kMarkBytes = 4;
    if (file_.size() < kMarkBytes) refuse(name_, "it is too short for a file of torch.save()");
    const AlignedScratch scratch(kMarkBytes);
    const std::span<const std::byte> data = file_.read(0, kMarkBytes, scratch.bytes());
    const std::string_view mark(reinterpret_cast<const char*>(data.data()), data.size());
    if (mark == "vers") {
      refuse(name_, "this is a Git LFS pointer and not the file itself; run \"git lfs pull\" in its folder");
    }
    if (mark[0] == '\x80') {
      refuse(name_,
             "it is a pickle as torch wrote it before version 1.6; load it and save it again, or convert it to "
             "safetensors");
    }
    if (mark != "PK\x03\x04") refuse(name_, "it is not the zip archive that torch.save() writes");
  }

  ReadFile& file_;
  std::string_view name_;
  std::string folder_;  ///< With its slash.
  std::map<std::string, ZipEntry> entries_;
};

void require_little_endian(const Archive& archive, std::string_view name) {
  const ZipEntry* entry = archive.find("byteorder");
  if (entry == nullptr) return;  // before torch 2.1
  const std::string order = archive.text_of(*entry, kMaxWordBytes);
  if (order != "little") refuse(name, fmt::format("its byte order is {}, not \"little\"", quoted(order)));
}

}  // namespace

bool is_torch_file_name(std::string_view name) noexcept {
  return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
}

TorchFile read_torch_file(ReadFile& file, std::string_view name) {
  const Archive archive(file, name);
  require_little_endian(archive, name);
  TorchFile out;
  out.header = archive.text_of(*archive.find("data.pkl"), kMaxPickleBytes);
  std::map<std::string, std::uint64_t> offsets;  // of storages
  for (PickledTensor& tensor : parse_torch_pickle(out.header, name)) {
    const auto size = static_cast<std::uint64_t>(bytes_of(tensor.dtype));
    const ZipEntry* storage = archive.find("data/" + tensor.storage);
    if (storage == nullptr)
      refuse(name, fmt::format("{}: its storage {} is missing", quoted(tensor.name), quoted(tensor.storage)));
    if (checked_mul(tensor.storage_elements, size) != storage->bytes) {
      refuse(name, fmt::format("{}: its storage holds {} bytes instead of {} elements of {}", quoted(tensor.name),
                               storage->bytes, tensor.storage_elements, size));
    }
    auto offset = offsets.find(tensor.storage);
    if (offset == offsets.end()) offset = offsets.emplace(tensor.storage, archive.offset_of(*storage)).first;
    out.tensors.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape),
                           offset->second + tensor.first_element * size, tensor.elements * size});
  }
  for (const auto& [storage, offset] : offsets) out.header += fmt::format("\n{} {}", storage, offset);
  std::ranges::sort(out.tensors, {}, [](const TorchTensor& tensor) {
    return std::tuple<std::uint64_t, std::uint64_t, std::string_view>(tensor.offset, tensor.bytes, tensor.name);
  });
  return out;
}

}  // namespace halfquad
