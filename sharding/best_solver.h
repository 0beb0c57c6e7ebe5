#pragma once

#include "kernels/quant_spec.h"

namespace halfquad {

/// The solver that makes the better models, of those that can solve `spec`: what a recipe that names none gets.
[[nodiscard]] SolverKind best_solver(const QuantSpec& spec) noexcept;

}  // namespace halfquad
