#include "sharding/row_packer.h"

#include "runtime/check.h"

namespace halfquad {

void RowPacker::search(const RowShape& /*shape*/, std::span<const float> /*weights*/, const float* /*importance*/,
                       const RowPlaces<std::byte>& /*out*/, ErrorSums& /*errors*/) const {
  HALFQUAD_REQUIRE(false, kInternal, "a layer has super-blocks in a format without them");
}

}  // namespace halfquad
