// What a job says of its work, compared.
#ifndef QUANTD_TESTS_QUANTIZERS_SAME_REPORT_H_
#define QUANTD_TESTS_QUANTIZERS_SAME_REPORT_H_

#include <gtest/gtest.h>

#include "quantizers/pipeline.h"

namespace quantd {

// All but names, times and memory, to the last bit: resumed jobs report what an uninterrupted one
// does.
inline void ExpectSameReport(const QuantizeReport& found, const QuantizeReport& expected) {
  EXPECT_EQ(found.source_bytes, expected.source_bytes);
  EXPECT_EQ(found.output_bytes, expected.output_bytes);
  EXPECT_EQ(found.bits_per_weight, expected.bits_per_weight);
  EXPECT_EQ(found.mean_relative_error, expected.mean_relative_error);
  EXPECT_EQ(found.warnings, expected.warnings);
  ASSERT_EQ(found.layers.size(), expected.layers.size());
  for (size_t i = 0; i < expected.layers.size(); ++i) {
    const LayerReport &a = found.layers[i], &b = expected.layers[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.scheme, b.scheme) << b.name;
    EXPECT_EQ(a.rows, b.rows) << b.name;
    EXPECT_EQ(a.cols, b.cols) << b.name;
    EXPECT_EQ(a.bits_per_weight, b.bits_per_weight) << b.name;
    EXPECT_EQ(a.relative_error, b.relative_error) << b.name;
    EXPECT_EQ(a.output_error, b.output_error) << b.name;
    EXPECT_EQ(a.rounding_error, b.rounding_error) << b.name;
  }
}

}  // namespace quantd

#endif  // QUANTD_TESTS_QUANTIZERS_SAME_REPORT_H_
