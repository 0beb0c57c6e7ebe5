#include "io/hdf5_reader.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>

#include "io/hdf5_library.h"
#include "io/hdf5_source.h"
#include "io/safetensors_header.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using hdf5::Id;

constexpr std::size_t kDeepest = 64;

struct Link {
  std::string name;
  H5L_type_t type = H5L_TYPE_ERROR;
};

herr_t keep_link(hid_t, const char* name, const H5L_info_t* info, void* into) {
  try {
    static_cast<std::vector<Link>*>(into)->push_back({name, info->type});
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}

herr_t keep_name(hid_t, const char* name, const H5A_info_t*, void* into) {
  try {
    static_cast<std::vector<std::string>*>(into)->emplace_back(name);
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}

/// Goes through one open file.
class Walker {
 public:
  Walker(const hdf5::Source& source, Hdf5File& into);
  void visit_group(hid_t group, const std::string& path, std::size_t depth);

 private:
  [[noreturn]] void refuse(const std::string& path, const std::string& why) const;
  [[noreturn]] void fail(const std::string& path, const char* what) const;
  [[nodiscard]] Id own(hid_t id, const std::string& path, const char* what) const;
  void check(herr_t status, const std::string& path, const char* what) const {
    if (status < 0) fail(path, what);
  }

  /// Refuses an object that was met before, or that has several names.
  void note_object(hid_t object, const std::string& path);
  void visit_link(hid_t group, const Link& link, const std::string& path, std::size_t depth);
  void visit_dataset(hid_t dataset, const std::string& path);
  void check_storage(hid_t dataset, const std::string& path) const;
  std::vector<std::int64_t> shape_of(hid_t dataset, const std::string& path) const;
  DType type_of(hid_t dataset, const std::string& path) const;
  std::vector<Hdf5Attribute> attributes_of(hid_t object, const std::string& path) const;
  Hdf5Value value_of(hid_t attribute, const std::string& path) const;
  Hdf5Value integers_of(hid_t attribute, hid_t space, const std::string& path) const;
  std::string text_of(hid_t attribute, hid_t type, const std::string& path) const;

  const hdf5::Source* source_;
  Hdf5File* into_;
  std::vector<std::pair<DType, Id>> types_;
  std::set<haddr_t> met_;
};

Walker::Walker(const hdf5::Source& source, Hdf5File& into) : source_(&source), into_(&into) {
  for (const DType dtype : {DType::kU8, DType::kF16, DType::kF32, DType::kU16, DType::kI8, DType::kI16, DType::kU32,
                            DType::kI32, DType::kU64, DType::kI64, DType::kF64}) {
    types_.emplace_back(dtype, hdf5::type_of(dtype));
  }
}

void Walker::refuse(const std::string& path, const std::string& why) const {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {} {}", quoted(source_->name()), quoted("/" + path), why));
}

void Walker::fail(const std::string& path, const char* what) const {
  hdf5::fail(ErrorCode::kBadInput,
             fmt::format("{}: cannot {} of {}", quoted(source_->name()), what, quoted("/" + path)));
}

Id Walker::own(hid_t id, const std::string& path, const char* what) const {
  if (id < 0) fail(path, what);
  return Id(id);
}

void Walker::note_object(hid_t object, const std::string& path) {
  H5O_info_t info{};
  check(H5Oget_info2(object, &info, H5O_INFO_BASIC), path, "read the header");
  if (info.rc > 1 || !met_.insert(info.addr).second) refuse(path, "is there under more than one name");
}

void Walker::visit_group(hid_t group, const std::string& path, std::size_t depth) {
  if (depth > kDeepest) refuse(path, fmt::format("is more than {} groups deep", kDeepest));
  note_object(group, path);
  std::vector<Link> links;
  // In native order: for any other one HDF5 1.10 builds a table, and frees what it never filled in when it meets an
  // error.
  check(H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, keep_link, &links), path, "list the members");
  std::ranges::sort(links, {}, &Link::name);
  std::vector<Hdf5Attribute> attributes = attributes_of(group, path);
  if (path.empty()) {
    into_->tree.attributes = std::move(attributes);
  } else if (!attributes.empty() || links.empty()) {
    into_->tree.groups.push_back({path, std::move(attributes)});
  }
  for (const Link& link : links) visit_link(group, link, path.empty() ? link.name : path + "/" + link.name, depth);
}

void Walker::visit_link(hid_t group, const Link& link, const std::string& path, std::size_t depth) {
  if (const auto defect = hdf5_name_defect(link.name); !defect.empty()) {
    refuse(path, fmt::format("has a name that is not taken: {}", defect));
  }
  if (link.type != H5L_TYPE_HARD) refuse(path, "is a link to another place or file");
  const Id object = own(H5Oopen(group, link.name.c_str(), H5P_DEFAULT), path, "read the header");
  const H5I_type_t kind = H5Iget_type(object.get());
  if (kind == H5I_GROUP) {
    visit_group(object.get(), path, depth + 1);
  } else if (kind == H5I_DATASET) {
    note_object(object.get(), path);
    visit_dataset(object.get(), path);
  } else {
    refuse(path, "is neither a group nor a dataset");
  }
}

void Walker::check_storage(hid_t dataset, const std::string& path) const {
  const Id creation = own(H5Dget_create_plist(dataset), path, "read the properties");
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (layout == H5D_CHUNKED) {
    const bool filtered = H5Pget_nfilters(creation.get()) != 0;
    refuse(path, fmt::format("is stored in {}chunks instead of one piece", filtered ? "compressed " : ""));
  }
  if (layout == H5D_COMPACT) refuse(path, "is stored in its header instead of a piece of its own");
  if (layout != H5D_CONTIGUOUS) refuse(path, "is put together from other datasets");
  if (H5Pget_external_count(creation.get()) != 0) refuse(path, "is stored in other files");
}

std::vector<std::int64_t> Walker::shape_of(hid_t dataset, const std::string& path) const {
  const Id space = own(H5Dget_space(dataset), path, "read the shape");
  const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
  if (kind == H5S_SCALAR) return {};
  const int rank = H5Sget_simple_extent_ndims(space.get());
  std::array<hsize_t, H5S_MAX_RANK> extent{};
  if (kind != H5S_SIMPLE || rank < 0 || rank > H5S_MAX_RANK ||
      H5Sget_simple_extent_dims(space.get(), extent.data(), nullptr) < 0) {
    refuse(path, "has no shape");
  }
  std::vector<std::int64_t> shape;
  for (const hsize_t size : std::span(extent).first(static_cast<std::size_t>(rank))) {
    const auto fitting = checked_cast<std::int64_t>(size);
    if (!fitting) refuse(path, fmt::format("has the dimension {}", size));
    shape.push_back(*fitting);
  }
  return shape;
}

DType Walker::type_of(hid_t dataset, const std::string& path) const {
  const Id type = own(H5Dget_type(dataset), path, "read the element type");
  for (const auto& [dtype, candidate] : types_) {
    if (H5Tequal(type.get(), candidate.get()) > 0) return dtype;
  }
  refuse(path, "has elements that are no little-endian integers of 1 to 8 bytes, halves, floats or doubles");
}

void Walker::visit_dataset(hid_t dataset, const std::string& path) {
  check_storage(dataset, path);
  Hdf5Dataset out{.path = path,
                  .dtype = type_of(dataset, path),
                  .shape = shape_of(dataset, path),
                  .attributes = attributes_of(dataset, path),
                  .content = {}};
  const auto count = element_count(out.shape);
  const auto bytes = count ? checked_mul(*count, bytes_of(out.dtype)) : std::nullopt;
  if (!bytes) refuse(path, "has a size that overflows 63 bits");
  const auto size = static_cast<std::uint64_t>(*bytes);
  std::uint64_t offset = 0;
  if (size != 0) {
    const haddr_t at = H5Dget_offset(dataset);
    if (at == HADDR_UNDEF) refuse(path, "has no data in the file");
    if (H5Dget_storage_size(dataset) != size) {
      refuse(path, fmt::format("holds {} bytes instead of {}", H5Dget_storage_size(dataset), size));
    }
    offset = at;
    const auto end = checked_add<std::uint64_t>(offset, size);
    if (!end || *end > into_->bytes) {
      refuse(path, fmt::format("has {} bytes at offset {}, behind the end of the file at {}", size, at, into_->bytes));
    }
  }
  into_->tree.datasets.push_back(std::move(out));
  into_->offsets.push_back(offset);
}

std::vector<Hdf5Attribute> Walker::attributes_of(hid_t object, const std::string& path) const {
  std::vector<std::string> names;
  hsize_t position = 0;
  check(H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_NATIVE, &position, keep_name, &names), path, "list the attributes");
  std::ranges::sort(names);
  std::vector<Hdf5Attribute> attributes;
  for (std::string& name : names) {
    if (!is_utf8(name)) refuse(path, fmt::format("has an attribute whose name is not UTF-8: {}", quoted(name)));
    const std::string where = path + "@" + name;
    const Id attribute = own(H5Aopen(object, name.c_str(), H5P_DEFAULT), where, "read the value");
    attributes.push_back({std::move(name), value_of(attribute.get(), where)});
  }
  return attributes;
}

Hdf5Value Walker::value_of(hid_t attribute, const std::string& path) const {
  const Id type = own(H5Aget_type(attribute), path, "read the type");
  const Id space = own(H5Aget_space(attribute), path, "read the shape");
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind == H5T_INTEGER) return integers_of(attribute, space.get(), path);
  if (kind == H5T_STRING && H5Sget_simple_extent_type(space.get()) == H5S_SCALAR) {
    return text_of(attribute, type.get(), path);
  }
  return std::monostate();
}

Hdf5Value Walker::integers_of(hid_t attribute, hid_t space, const std::string& path) const {
  const H5S_class_t kind = H5Sget_simple_extent_type(space);
  if (kind == H5S_SCALAR) {
    std::int64_t value = 0;
    check(H5Aread(attribute, H5T_NATIVE_INT64, &value), path, "read the value");
    const auto fitting = checked_cast<std::int32_t>(value);
    return fitting ? Hdf5Value(*fitting) : Hdf5Value();
  }
  constexpr hssize_t kMostNumbers = 65'536;
  const hssize_t count = H5Sget_simple_extent_npoints(space);
  if (kind != H5S_SIMPLE || H5Sget_simple_extent_ndims(space) != 1 || count < 0 || count > kMostNumbers) return {};
  std::vector<std::int64_t> values(static_cast<std::size_t>(count));
  if (count != 0) check(H5Aread(attribute, H5T_NATIVE_INT64, values.data()), path, "read the value");
  return values;
}

std::string Walker::text_of(hid_t attribute, hid_t type, const std::string& path) const {
  std::string text;
  if (H5Tis_variable_str(type) > 0) {
    // The characters of text_ or, failing that, ASCII: HDF5 does not convert between the two.
    const Id as = own(H5Tcopy(type), path, "read the type");
    char* chars = nullptr;
    check(H5Aread(attribute, as.get(), static_cast<void*>(&chars)), path, "read the value");
    if (chars != nullptr) text = chars;
    H5free_memory(chars);
  } else {
    text.resize(H5Tget_size(type));
    check(H5Aread(attribute, type, text.data()), path, "read the value");
    text.resize(std::min(text.find('\0'), text.size()));
    if (H5Tget_strpad(type) == H5T_STR_SPACEPAD) text.resize(text.find_last_not_of(' ') + 1);
  }
  if (!is_utf8(text)) refuse(path, "is not UTF-8");
  return text;
}

/// @pre every dataset lies inside the file.
void check_overlaps(const Hdf5File& file, std::string_view name) {
  std::vector<std::size_t> order(file.offsets.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return file.offsets[i]; });
  std::uint64_t end = 0;
  std::size_t last = 0;
  for (const std::size_t i : order) {
    const Hdf5Dataset& dataset = file.tree.datasets[i];
    const auto bytes = static_cast<std::uint64_t>(*element_count(dataset.shape) * bytes_of(dataset.dtype));
    if (bytes == 0) continue;
    if (file.offsets[i] < end) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: {} overlaps {} at offset {}", quoted(name), quoted("/" + dataset.path),
                              quoted("/" + file.tree.datasets[last].path), file.offsets[i]));
    }
    end = file.offsets[i] + bytes;
    last = i;
  }
}

}  // namespace

Hdf5File read_hdf5(ReadFile& file, std::string_view name) {
  hdf5::Source source(file, name);
  source.check_superblock();
  Hdf5File out;
  out.bytes = source.size();
  const hdf5::Session session;
  try {
    const Id access = hdf5::own(H5Pcreate(H5P_FILE_ACCESS), "make a property list");
    const Id driver = hdf5::use_source_driver(access, source);
    const Id opened(H5Fopen("source", H5F_ACC_RDONLY, access.get()));
    if (!opened.valid()) hdf5::fail(ErrorCode::kBadInput, quoted(name) + ": cannot open it");
    const Id root(H5Gopen2(opened.get(), "/", H5P_DEFAULT));
    if (!root.valid()) hdf5::fail(ErrorCode::kBadInput, quoted(name) + ": cannot read its root");
    Walker(source, out).visit_group(root.get(), "", 0);
  } catch (const Error&) {
    source.rethrow();
    throw;
  }
  check_overlaps(out, name);
  return out;
}

}  // namespace halfquad
