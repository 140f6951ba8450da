#include "quantizers/sequence_store.h"

#include <gtest/gtest.h>

#include "scratch_sink.h"

namespace quantd {
namespace {

FloatBuffer Values(size_t count, float first) {
  FloatBuffer values(count, 0.0f);
  for (size_t i = 0; i < count; ++i) values[i] = first + static_cast<float>(i);
  return values;
}

void ExpectKept(SequenceStore& store, size_t sequence, const FloatBuffer& expected) {
  FloatBuffer values;
  ASSERT_TRUE(store.Take(sequence, values).ok());
  EXPECT_EQ(values, expected);
  store.Return(sequence, values);
}

TEST(SequenceStore, KeepsInAFileWhatMemoryDoesNotHold) {
  ScratchSink sink;
  {
    SequenceStore store(sink, "inputs", 10 * sizeof(float));
    for (int s = 0; s < 4; ++s) {
      ASSERT_TRUE(store.Append(Values(6, static_cast<float>(100 * s))).ok());
    }
    EXPECT_EQ(store.size(), 4u);
    EXPECT_EQ(sink.there.size(), 1u);
    // Twice, in any order.
    for (const size_t s : {3, 0, 1, 2, 0, 3}) {
      ExpectKept(store, s, Values(6, static_cast<float>(100 * s)));
    }
    store.Clear();
    EXPECT_TRUE(sink.there.empty());
    ASSERT_TRUE(store.Append(Values(20, 7)).ok());
    ExpectKept(store, 0, Values(20, 7));
    EXPECT_EQ(sink.created, 2);
  }
  EXPECT_TRUE(sink.there.empty());
}

TEST(SequenceStore, NeedsNoFileForWhatFits) {
  ScratchSink sink;
  SequenceStore store(sink, "inputs", 10 * sizeof(float));
  ASSERT_TRUE(store.Append(Values(10, 1)).ok());
  ExpectKept(store, 0, Values(10, 1));
  EXPECT_EQ(sink.created, 0);
}

}  // namespace
}  // namespace quantd
