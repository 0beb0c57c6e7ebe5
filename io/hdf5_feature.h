#pragma once

#include "runtime/feature.h"

namespace halfquad {

[[nodiscard]] Feature hdf5_feature();

}  // namespace halfquad
