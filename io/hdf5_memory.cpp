#include "io/hdf5_memory.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <string>

#include <hdf5.h>
#if __has_include(<H5FDdevelop.h>)  // where HDF5 1.14 has what drivers are made of
#include <H5FDdevelop.h>
#endif

namespace halfquad::hdf5 {
namespace {

constexpr std::size_t kLongestPiece = 1'048'576;

/// Appends to the last piece when `bytes` follow it directly and it is not too long to grow.
void append(std::vector<FileImage::Fixed>& pieces, std::uint64_t at, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!pieces.empty() && pieces.back().offset + pieces.back().bytes.size() == at &&
      pieces.back().bytes.size() + text.size() <= kLongestPiece) {
    pieces.back().bytes += text;
  } else {
    pieces.push_back({.offset = at, .bytes = std::string(text)});
  }
}

}  // namespace

void SparseBytes::write(std::uint64_t at, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t inside = at % kPage;
    const std::size_t part = std::min(kPage - inside, bytes.size());
    std::unique_ptr<Page>& page = pages_[at / kPage];
    if (page == nullptr) page = std::make_unique<Page>();
    std::memcpy(page->data() + inside, bytes.data(), part);
    at += part;
    bytes = bytes.subspan(part);
  }
}

void SparseBytes::read(std::uint64_t at, std::span<std::byte> into) const {
  while (!into.empty()) {
    const std::size_t inside = at % kPage;
    const std::size_t part = std::min(kPage - inside, into.size());
    const auto page = pages_.find(at / kPage);
    if (page == pages_.end()) {
      std::memset(into.data(), 0, part);
    } else {
      std::memcpy(into.data(), page->second->data() + inside, part);
    }
    at += part;
    into = into.subspan(part);
  }
}

std::vector<FileImage::Fixed> SparseBytes::take(std::span<const ByteRange> holes) {
  std::vector<FileImage::Fixed> pieces;
  while (!pages_.empty()) {
    const auto page = pages_.extract(pages_.begin());
    std::uint64_t at = page.key() * kPage;
    const std::uint64_t first = at;
    const std::uint64_t end = std::min(at + kPage, length_);
    const std::span<const std::byte> bytes = *page.mapped();
    while (at < end) {
      while (!holes.empty() && holes.front().offset + holes.front().bytes <= at) holes = holes.subspan(1);
      const std::uint64_t stop = holes.empty() ? end : std::min(end, holes.front().offset);
      if (stop > at) append(pieces, at, bytes.subspan(at - first, stop - at));
      if (holes.empty()) break;
      at = holes.front().offset + holes.front().bytes;
    }
  }
  return pieces;
}

namespace {

constexpr haddr_t kLargest = haddr_t{1} << 62U;

struct Info {
  SparseBytes* bytes = nullptr;
};

/// HDF5 hands out pointers to the first member.
struct MemoryFile {
  H5FD_t base{};
  SparseBytes* bytes = nullptr;
  haddr_t end = 0;
};

MemoryFile* file_of(H5FD_t* file) { return reinterpret_cast<MemoryFile*>(file); }
const MemoryFile* file_of(const H5FD_t* file) { return reinterpret_cast<const MemoryFile*>(file); }

H5FD_t* open_file(const char*, unsigned, hid_t access, haddr_t) {
  const auto* info = static_cast<const Info*>(H5Pget_driver_info(access));
  auto* file = info == nullptr ? nullptr : new (std::nothrow) MemoryFile{.bytes = info->bytes};
  return reinterpret_cast<H5FD_t*>(file);
}

herr_t close_file(H5FD_t* file) {
  delete file_of(file);
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  if (flags != nullptr) *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

haddr_t get_end(const H5FD_t* file, H5FD_mem_t) { return file_of(file)->end; }

herr_t set_end(H5FD_t* file, H5FD_mem_t, haddr_t end) {
  file_of(file)->end = end;
  return 0;
}

herr_t read_file(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t at, std::size_t size, void* into) {
  file_of(file)->bytes->read(at, {static_cast<std::byte*>(into), size});
  return 0;
}

herr_t write_file(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t at, std::size_t size, const void* from) {
  try {
    file_of(file)->bytes->write(at, {static_cast<const std::byte*>(from), size});
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}

herr_t truncate_file(H5FD_t* file, hid_t, hbool_t) {
  file_of(file)->bytes->set_length(file_of(file)->end);
  return 0;
}

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
#if H5_VERSION_GE(1, 14, 0)
  driver.version = H5FD_CLASS_VERSION;
  driver.value = static_cast<H5FD_class_value_t>(H5_VFD_RESERVED + 1);
#endif
  driver.name = "halfquad_memory";
  driver.maxaddr = kLargest;
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.fapl_size = sizeof(Info);
  driver.open = open_file;
  driver.close = close_file;
  driver.query = query;
  driver.get_eoa = get_end;
  driver.set_eoa = set_end;
  driver.get_eof = get_end;
  driver.read = read_file;
  driver.write = write_file;
  driver.truncate = truncate_file;
  std::fill(std::begin(driver.fl_map), std::end(driver.fl_map), H5FD_MEM_DEFAULT);
  return driver;
}

}  // namespace

Id use_memory_driver(const Id& access, SparseBytes& bytes) {
  static const H5FD_class_t driver = driver_class();
  Id id = own(H5FDregister(&driver), "register a file driver");
  const Info info{.bytes = &bytes};
  check(H5Pset_driver(access.get(), id.get(), &info), "use its file driver");
  return id;
}

}  // namespace halfquad::hdf5
