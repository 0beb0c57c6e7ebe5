#pragma once

// The installed header of this name is runtime/error.h itself: halfquad::Error and its codes.
#include "runtime/error.h"
