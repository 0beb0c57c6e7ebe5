#include "io/hdf5_library.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include <hdf5.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad::hdf5 {

static_assert(std::is_same_v<Handle, hid_t> && std::is_same_v<Status, herr_t>);
static_assert(Id::kNone == H5I_INVALID_HID);

namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

herr_t keep_first(unsigned depth, const H5E_error2_t* error, void* into) {
  if (depth != 0 || error == nullptr) return 0;
  auto& text = *static_cast<std::string*>(into);
  text = error->desc != nullptr ? error->desc : "";
  if (error->func_name != nullptr) text += std::string(" (") + error->func_name + ")";
  return 0;
}

/// IEEE half precision, which HDF5 has no name for: cut out of single precision as h5py does.
Id half_type() {
  Id type = own(H5Tcopy(H5T_IEEE_F32LE), "copy a type");
  check(H5Tset_fields(type.get(), 15, 10, 5, 0, 10), "set the fields of a type");
  check(H5Tset_size(type.get(), 2), "set the size of a type");
  check(H5Tset_ebias(type.get(), 15), "set the exponent of a type");
  return type;
}

hid_t named_type(DType dtype) {
  const std::array<std::pair<DType, hid_t>, 10> types = {{{DType::kU8, H5T_STD_U8LE},
                                                          {DType::kI8, H5T_STD_I8LE},
                                                          {DType::kU16, H5T_STD_U16LE},
                                                          {DType::kI16, H5T_STD_I16LE},
                                                          {DType::kU32, H5T_STD_U32LE},
                                                          {DType::kI32, H5T_STD_I32LE},
                                                          {DType::kU64, H5T_STD_U64LE},
                                                          {DType::kI64, H5T_STD_I64LE},
                                                          {DType::kF32, H5T_IEEE_F32LE},
                                                          {DType::kF64, H5T_IEEE_F64LE}}};
  const auto* found = std::ranges::find(types, dtype, &std::pair<DType, hid_t>::first);
  return found == types.end() ? H5I_INVALID_HID : found->second;
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  // Before anything else of HDF5, so that it takes effect: after a file that could not be opened, HDF5 1.10 finds no
  // end of cleaning up when the process ends, and says so on stderr.
  static const herr_t no_cleanup = H5dont_atexit();
  static_cast<void>(no_cleanup);
  H5Eget_auto2(H5E_DEFAULT, &printer_, &printer_data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Session::~Session() { H5Eset_auto2(H5E_DEFAULT, printer_, printer_data_); }

void fail(ErrorCode code, const std::string& what, SourceLocation where) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  throw Error(code, what + ": " + (reason.empty() ? "HDF5 gives no reason" : "HDF5: " + one_line(reason)), where);
}

Id& Id::operator=(Id&& other) noexcept {
  std::swap(id_, other.id_);
  return *this;
}

Id::~Id() {
  if (valid()) H5Idec_ref(id_);
}

Id own(hid_t id, const char* what) {
  if (id < 0) fail(ErrorCode::kInternal, std::string("HDF5 cannot ") + what);
  return Id(id);
}

void check(herr_t status, const char* what) {
  if (status < 0) fail(ErrorCode::kInternal, std::string("HDF5 cannot ") + what);
}

Id type_of(DType dtype) {
  if (dtype == DType::kF16) return half_type();
  const hid_t type = named_type(dtype);
  HALFQUAD_REQUIRE(type >= 0, kInternal, "HDF5 does not store " + std::string(name_of(dtype)));
  return own(H5Tcopy(type), "copy a type");
}

Id text_type() {
  Id type = own(H5Tcopy(H5T_C_S1), "copy a type");
  check(H5Tset_size(type.get(), H5T_VARIABLE), "set the size of a type");
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "set the characters of a type");
  return type;
}

}  // namespace halfquad::hdf5
