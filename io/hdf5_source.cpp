#include "io/hdf5_source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <hdf5.h>
#if __has_include(<H5FDdevelop.h>)  // where HDF5 1.14 has what drivers are made of
#include <H5FDdevelop.h>
#endif

#include "io/aligned_scratch.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad::hdf5 {
namespace {

constexpr std::array<unsigned char, 8> kSignature = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
constexpr std::size_t kSuperblockBytes = 48;
constexpr std::size_t kHeapHeader = 16;  // of a collection and of an object in it

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i > 0; --i) value = value << 8U | std::to_integer<std::uint64_t>(bytes[i - 1]);
  return value;
}

}  // namespace

void Source::refuse(const std::string& why) const {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", quoted(name_), why));
}

void Source::rethrow() const {
  if (error_) std::rethrow_exception(error_);
}

void Source::read(std::uint64_t at, std::span<std::byte> into) {
  const auto end = checked_add<std::uint64_t>(at, into.size());
  if (!end || *end > size()) {
    refuse(fmt::format("it speaks of {} bytes at offset {}, behind its end at {}", into.size(), at, size()));
  }
  if (into.empty()) return;
  const AlignedScratch scratch(into.size());
  std::ranges::copy(file_->read(at, into.size(), scratch.bytes()), into.begin());
}

void Source::check_superblock() {
  if (size() < kSuperblockBytes) refuse(fmt::format("{} bytes are too few for an HDF5 file", size()));
  std::array<std::byte, kSuperblockBytes> block{};
  read(0, block);
  const auto byte = [&](std::size_t i) { return std::to_integer<unsigned>(block[i]); };
  const auto word = [&](std::size_t i) { return little_endian(std::span(block).subspan(i, 8)); };
  if (std::memcmp(block.data(), kSignature.data(), kSignature.size()) != 0) refuse("it is not an HDF5 file");
  if (byte(8) != 2 && byte(8) != 3) {
    refuse(fmt::format("it has superblock version {}; versions 2 and 3 are supported", byte(8)));
  }
  if (byte(9) != 8 || byte(10) != 8) {
    refuse(fmt::format("its offsets and lengths have {} and {} bytes instead of 8", byte(9), byte(10)));
  }
  if (byte(11) != 0) refuse("it is open for writing, or its writer died");
  if (word(12) != 0) refuse(fmt::format("it begins at offset {} of the file instead of 0", word(12)));
  if (word(28) > size()) refuse(fmt::format("it is cut off after {} of {} bytes", size(), word(28)));
  if (word(28) < size()) refuse(fmt::format("there are {} bytes behind its end", size() - word(28)));
}

void Source::check_heap(std::uint64_t at) {
  std::array<std::byte, kHeapHeader> header{};
  read(at, header);
  if (std::memcmp(header.data(), "GCOL", 4) != 0) refuse(fmt::format("there is no collection of texts at {}", at));
  const std::uint64_t size = little_endian(std::span(header).subspan(8));
  if (size < kHeapHeader || size > this->size()) {
    refuse(fmt::format("the collection of texts at {} claims {} bytes", at, size));
  }
  std::vector<std::byte> bytes(size);
  read(at, bytes);
  std::span<const std::byte> rest = std::span(bytes).subspan(kHeapHeader);
  for (std::uint64_t expected = 1; rest.size() >= kHeapHeader; ++expected) {
    const std::uint64_t index = little_endian(rest.subspan(0, 2));
    const std::uint64_t length = little_endian(rest.subspan(8, 8));
    // The free rest; HDF5 would go round in circles at one that goes nowhere.
    if (index == 0 && length == rest.size()) return;
    const auto whole = length < rest.size() ? kHeapHeader + round_up<std::uint64_t>(length, 8) : size;
    if (index != expected || whole > rest.size()) {
      refuse(fmt::format("text {} in the collection at {} has number {} and {} bytes", expected, at, index, length));
    }
    rest = rest.subspan(whole);
  }
}

namespace {

struct Info {
  Source* source = nullptr;
};

/// HDF5 hands out pointers to the first member.
struct SourceFile {
  H5FD_t base{};
  Source* source = nullptr;
  haddr_t end = 0;
};

SourceFile* file_of(H5FD_t* file) { return reinterpret_cast<SourceFile*>(file); }
const SourceFile* file_of(const H5FD_t* file) { return reinterpret_cast<const SourceFile*>(file); }

H5FD_t* open_file(const char*, unsigned, hid_t access, haddr_t) {
  const auto* info = static_cast<const Info*>(H5Pget_driver_info(access));
  auto* file = info == nullptr ? nullptr : new (std::nothrow) SourceFile{.source = info->source};
  return reinterpret_cast<H5FD_t*>(file);
}

herr_t close_file(H5FD_t* file) {
  delete file_of(file);
  return 0;
}

haddr_t get_end(const H5FD_t* file, H5FD_mem_t) { return file_of(file)->end; }

herr_t set_end(H5FD_t* file, H5FD_mem_t, haddr_t end) {
  file_of(file)->end = end;
  return 0;
}

haddr_t get_size(const H5FD_t* file, H5FD_mem_t) { return file_of(file)->source->size(); }

herr_t read_file(H5FD_t* file, H5FD_mem_t type, hid_t, haddr_t at, std::size_t size, void* into) {
  Source& source = *file_of(file)->source;
  try {
    source.read(at, {static_cast<std::byte*>(into), size});
    // HDF5 reads texts as if they were data, and nothing else that way here. A long collection comes in two reads, of
    // which only the first has the signature.
    if (type == H5FD_MEM_DRAW && size >= 4 && std::memcmp(into, "GCOL", 4) == 0) source.check_heap(at);
  } catch (...) {
    source.keep(std::current_exception());
    return -1;
  }
  return 0;
}

herr_t write_file(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, std::size_t, const void*) { return -1; }

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
#if H5_VERSION_GE(1, 14, 0)
  driver.version = H5FD_CLASS_VERSION;
  driver.value = static_cast<H5FD_class_value_t>(H5_VFD_RESERVED + 2);
#endif
  driver.name = "halfquad_source";
  driver.maxaddr = haddr_t{1} << 62U;
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.fapl_size = sizeof(Info);
  driver.open = open_file;
  driver.close = close_file;
  driver.get_eoa = get_end;
  driver.set_eoa = set_end;
  driver.get_eof = get_size;
  driver.read = read_file;
  driver.write = write_file;
  std::fill(std::begin(driver.fl_map), std::end(driver.fl_map), H5FD_MEM_DEFAULT);
  return driver;
}

}  // namespace

Id use_source_driver(const Id& access, Source& source) {
  static const H5FD_class_t driver = driver_class();
  Id id = own(H5FDregister(&driver), "register a file driver");
  const Info info{.source = &source};
  check(H5Pset_driver(access.get(), id.get(), &info), "use its file driver");
  return id;
}

}  // namespace halfquad::hdf5
