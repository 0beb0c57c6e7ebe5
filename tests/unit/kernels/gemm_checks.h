#pragma once

#include "kernels/gemm.h"

namespace halfquad::test {

// What every Gemm promises. Failures are those of the running test.

/// Two products that can be followed by eye, one of them added to the other.
void expect_product_by_hand(Gemm& gemm);
/// A product of matrices without any pattern, sizes and strides as given, against sums in double; what lies between the
/// rows of C must stay as it was.
void expect_right_product(Gemm& gemm, const GemmProblem& sizes);
/// The same for sizes and strides of many kinds.
void expect_right_products(Gemm& gemm);
void expect_empty_products(Gemm& gemm);
void expect_overlap_refused(Gemm& gemm);

}  // namespace halfquad::test
