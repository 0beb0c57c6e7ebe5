#include "io/hdf5_image.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <hdf5.h>

#include "io/byte_range.h"
#include "io/hdf5_library.h"
#include "io/hdf5_memory.h"
#include "io/safetensors_header.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using hdf5::check;
using hdf5::Id;
using hdf5::own;

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 62U;
constexpr std::size_t kCacheBytes = 2'097'152;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kBadInput, fmt::format("HDF5 cannot hold {}: {}", quoted(path), why));
}

std::uint64_t bytes_of(const Hdf5Dataset& dataset) {
  if (!hdf5_stores(dataset.dtype)) {
    refuse(dataset.path, fmt::format("it has no element type {}", name_of(dataset.dtype)));
  }
  const auto count = element_count(dataset.shape);
  const auto bytes = count ? checked_mul(*count, halfquad::bytes_of(dataset.dtype)) : std::nullopt;
  if (!bytes || static_cast<std::uint64_t>(*bytes) > kMostBytes) refuse(dataset.path, "its size is beyond 62 bits");
  if (dataset.shape.size() > H5S_MAX_RANK) refuse(dataset.path, "it has more than 32 dimensions");
  return static_cast<std::uint64_t>(*bytes);
}

void check_attributes(const std::string& path, const std::vector<Hdf5Attribute>& attributes) {
  std::set<std::string_view> names;
  for (const Hdf5Attribute& attribute : attributes) {
    const std::string what = fmt::format("the attribute {}", quoted(attribute.name));
    // An attribute may have a slash in its name, unlike everything else.
    if (!names.insert(attribute.name).second) refuse(path, what + " is there twice");
    if (attribute.name.empty() || attribute.name.size() > 4096 || !is_utf8(attribute.name) ||
        attribute.name.find('\0') != std::string::npos) {
      refuse(path, what + " has a name that is empty, too long, not UTF-8 or with NUL");
    }
    const auto* text = std::get_if<std::string>(&attribute.value);
    if (text != nullptr && text->find('\0') != std::string::npos) refuse(path, what + " has a NUL in its text");
    if (text != nullptr && !is_utf8(*text)) refuse(path, what + " is not UTF-8");
    if (std::holds_alternative<std::monostate>(attribute.value)) refuse(path, what + " has no value");
  }
}

/// Everything that can be wrong with a tree, before HDF5 sees it.
void check_tree(const Hdf5Tree& tree) {
  check_attributes("/", tree.attributes);
  std::set<std::string_view> groups;
  std::set<std::string_view> datasets;
  for (const Hdf5Group& group : tree.groups) {
    if (const auto defect = hdf5_path_defect(group.path); !defect.empty()) refuse(group.path, std::string(defect));
    if (!groups.insert(group.path).second) refuse(group.path, "two objects have this path");
    check_attributes(group.path, group.attributes);
  }
  for (const Hdf5Dataset& dataset : tree.datasets) {
    if (const auto defect = hdf5_path_defect(dataset.path); !defect.empty()) {
      refuse(dataset.path, std::string(defect));
    }
    if (groups.contains(dataset.path) || !datasets.insert(dataset.path).second) {
      refuse(dataset.path, "two objects have this path");
    }
    check_attributes(dataset.path, dataset.attributes);
    if (const std::uint64_t bytes = bytes_of(dataset); !dataset.content.empty() && dataset.content.size() != bytes) {
      refuse(dataset.path, fmt::format("its content is {} bytes, not {}", dataset.content.size(), bytes));
    }
  }
  const auto check_above = [&](std::string_view path) {
    for (std::size_t slash = path.find('/'); slash != std::string_view::npos; slash = path.find('/', slash + 1)) {
      const std::string_view above = path.substr(0, slash);
      if (datasets.contains(above))
        refuse(std::string(above), fmt::format("{} would be below a dataset", quoted(path)));
    }
  };
  for (const Hdf5Group& group : tree.groups) check_above(group.path);
  for (const Hdf5Dataset& dataset : tree.datasets) check_above(dataset.path);
}

/// Metadata comes in runs of this size instead of being strewn between the datasets; what is left of the first runs
/// stays unused, so a small file has small ones.
hsize_t metadata_block(const Hdf5Tree& tree) {
  constexpr std::uint64_t kLongest = 1'048'576;
  constexpr std::uint64_t kObject = 512;
  return std::min(kLongest, std::bit_ceil(kObject * (8 + tree.groups.size() + tree.datasets.size())));
}

/// Writes one tree into one file.
class ImageBuilder {
 public:
  ImageBuilder(const Hdf5Tree& tree, hdf5::SparseBytes& bytes);

  /// Makes the group at `path` ("" is the root) and all above it, with their attributes, unless they are there.
  hid_t enter(std::string_view path);
  /// Its place in the file; 0 without elements.
  std::uint64_t put_dataset(const Hdf5Dataset& dataset);
  void close();

 private:
  void put_attributes(hid_t object, const std::vector<Hdf5Attribute>& attributes);
  Id make_group(hid_t above, const std::string& name, const std::string& path);
  const Id& type(DType dtype);

  Id access_;
  Id driver_;
  Id link_, group_, dataset_, attribute_, text_, scalar_;
  std::map<DType, Id> types_;
  Id file_;
  std::vector<std::pair<std::string, Id>> open_;  // groups from the root down to the last one used, by path
  std::map<std::string_view, const Hdf5Group*> groups_;
  std::set<std::string, std::less<>> made_;  // paths of all groups
};

/// Objects in the cache take ten times their bytes in the file, and none is needed again but the last few.
void limit_cache(const Id& access) {
  H5AC_cache_config_t config{};
  config.version = H5AC__CURR_CACHE_CONFIG_VERSION;
  check(H5Pget_mdc_config(access.get(), &config), "tell the size of its cache");
  config.set_initial_size = 1;
  config.initial_size = config.min_size = kCacheBytes;
  config.max_size = 2 * kCacheBytes;
  check(H5Pset_mdc_config(access.get(), &config), "set the size of its cache");
}

Id property_list(hid_t of_class) { return own(H5Pcreate(of_class), "make a property list"); }

ImageBuilder::ImageBuilder(const Hdf5Tree& tree, hdf5::SparseBytes& bytes)
    : access_(property_list(H5P_FILE_ACCESS)),
      driver_(hdf5::use_memory_driver(access_, bytes)),
      link_(property_list(H5P_LINK_CREATE)),
      group_(property_list(H5P_GROUP_CREATE)),
      dataset_(property_list(H5P_DATASET_CREATE)),
      attribute_(property_list(H5P_ATTRIBUTE_CREATE)),
      text_(hdf5::text_type()),
      scalar_(own(H5Screate(H5S_SCALAR), "make a data space")) {
  check(H5Pset_libver_bounds(access_.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), "set the version of a file");
  limit_cache(access_);
  check(H5Pset_meta_block_size(access_.get(), metadata_block(tree)), "set the size of metadata blocks");
  check(H5Pset_alignment(access_.get(), kHdf5AlignedFrom, kHdf5Alignment), "set the alignment");
  check(H5Pset_char_encoding(link_.get(), H5T_CSET_UTF8), "set the encoding of names");
  check(H5Pset_char_encoding(attribute_.get(), H5T_CSET_UTF8), "set the encoding of names");
  check(H5Pset_obj_track_times(group_.get(), 0), "do without time stamps");
  check(H5Pset_obj_track_times(dataset_.get(), 0), "do without time stamps");
  check(H5Pset_layout(dataset_.get(), H5D_CONTIGUOUS), "set the layout");
  check(H5Pset_alloc_time(dataset_.get(), H5D_ALLOC_TIME_EARLY), "set the time of allocation");
  check(H5Pset_fill_time(dataset_.get(), H5D_FILL_TIME_NEVER), "set the time of filling");
  const Id creation = property_list(H5P_FILE_CREATE);
  check(H5Pset_obj_track_times(creation.get(), 0), "do without time stamps");
  file_ = own(H5Fcreate("image", H5F_ACC_TRUNC, creation.get(), access_.get()), "make a file");
  for (const Hdf5Group& group : tree.groups) groups_.emplace(group.path, &group);
  put_attributes(file_.get(), tree.attributes);
}

const Id& ImageBuilder::type(DType dtype) {
  Id& id = types_[dtype];
  if (!id.valid()) id = hdf5::type_of(dtype);
  return id;
}

void ImageBuilder::put_attributes(hid_t object, const std::vector<Hdf5Attribute>& attributes) {
  for (const auto& [name, value] : attributes) {
    const auto* text = std::get_if<std::string>(&value);
    const auto* number = std::get_if<std::int32_t>(&value);
    const auto* list = std::get_if<std::vector<std::int64_t>>(&value);
    Id list_space;
    if (list != nullptr) {
      const hsize_t count = list->size();
      list_space = own(H5Screate_simple(1, &count, nullptr), "make a data space");
    }
    const Id& of = text != nullptr ? text_ : type(number != nullptr ? DType::kI32 : DType::kI64);
    const Id attribute = own(H5Acreate2(object, name.c_str(), of.get(), (list != nullptr ? list_space : scalar_).get(),
                                        attribute_.get(), H5P_DEFAULT),
                             "make an attribute");
    const char* const chars = text != nullptr ? text->c_str() : nullptr;
    const void* const from = text != nullptr     ? static_cast<const void*>(&chars)
                             : number != nullptr ? static_cast<const void*>(number)
                                                 : static_cast<const void*>(list->data());
    if (list == nullptr || !list->empty()) check(H5Awrite(attribute.get(), of.get(), from), "write an attribute");
  }
}

Id ImageBuilder::make_group(hid_t above, const std::string& name, const std::string& path) {
  if (!made_.insert(path).second) return own(H5Gopen2(above, name.c_str(), H5P_DEFAULT), "open a group");
  Id id = own(H5Gcreate2(above, name.c_str(), link_.get(), group_.get(), H5P_DEFAULT), "make a group");
  const auto group = groups_.find(path);
  if (group != groups_.end()) put_attributes(id.get(), group->second->attributes);
  return id;
}

// Objects come in runs with the same beginning, so the way to the last group stays open.
hid_t ImageBuilder::enter(std::string_view path) {
  const auto leads_to = [&](const std::string& above) {
    return path.starts_with(above) && (path.size() == above.size() || path[above.size()] == '/');
  };
  while (!open_.empty() && !leads_to(open_.back().first)) open_.pop_back();
  std::size_t done = open_.empty() ? 0 : open_.back().first.size() + 1;
  while (done < path.size()) {
    const std::size_t slash = std::min(path.find('/', done), path.size());
    const hid_t above = open_.empty() ? file_.get() : open_.back().second.get();
    std::string whole(path.substr(0, slash));
    Id id = make_group(above, std::string(path.substr(done, slash - done)), whole);
    open_.emplace_back(std::move(whole), std::move(id));
    done = slash + 1;
  }
  return open_.empty() ? file_.get() : open_.back().second.get();
}

std::uint64_t ImageBuilder::put_dataset(const Hdf5Dataset& dataset) {
  std::array<hsize_t, H5S_MAX_RANK> extent{};
  for (std::size_t i = 0; i < dataset.shape.size(); ++i) extent[i] = static_cast<hsize_t>(dataset.shape[i]);
  const int rank = static_cast<int>(dataset.shape.size());
  const Id space =
      own(rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, extent.data(), nullptr), "make a data space");
  const std::size_t slash = dataset.path.rfind('/');
  const hid_t above = slash == std::string::npos ? enter("") : enter(std::string_view(dataset.path).substr(0, slash));
  const std::string name = slash == std::string::npos ? dataset.path : dataset.path.substr(slash + 1);
  const Id id = own(
      H5Dcreate2(above, name.c_str(), type(dataset.dtype).get(), space.get(), link_.get(), dataset_.get(), H5P_DEFAULT),
      "make a dataset");
  put_attributes(id.get(), dataset.attributes);
  const haddr_t offset = H5Dget_offset(id.get());
  if (bytes_of(dataset) == 0) return 0;
  HALFQUAD_REQUIRE(offset != HADDR_UNDEF, kInternal, fmt::format("HDF5 gave {} no place", quoted(dataset.path)));
  return offset;
}

void ImageBuilder::close() {
  open_.clear();
  check(H5Fclose(file_.release()), "close a file");
}

/// Puts the contents of datasets among the fixed bytes, in order.
void add_contents(const Hdf5Tree& tree, FileImage& image) {
  for (std::size_t i = 0; i < tree.datasets.size(); ++i) {
    if (tree.datasets[i].content.empty()) continue;
    image.fixed.push_back({.offset = image.offsets[i], .bytes = tree.datasets[i].content});
  }
  std::ranges::sort(image.fixed, {}, &FileImage::Fixed::offset);
}

}  // namespace

FileImage hdf5_image(const Hdf5Tree& tree) {
  check_tree(tree);
  const hdf5::Session session;
  hdf5::SparseBytes bytes;
  FileImage image;
  ImageBuilder builder(tree, bytes);
  std::vector<ByteRange> data;
  for (const Hdf5Dataset& dataset : tree.datasets) {
    image.offsets.push_back(builder.put_dataset(dataset));
    if (const std::uint64_t size = bytes_of(dataset); size != 0) {
      data.push_back({.offset = image.offsets.back(), .bytes = size});
    }
  }
  for (const Hdf5Group& group : tree.groups) builder.enter(group.path);  // those without datasets
  builder.close();
  std::ranges::sort(data, {}, &ByteRange::offset);
  image.bytes = bytes.length();
  image.fixed = bytes.take(data);
  add_contents(tree, image);
  return image;
}

}  // namespace halfquad
