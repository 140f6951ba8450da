#include "models/tokenizers/post_processor.h"

namespace quantd {

PostProcessor::PostProcessor(const std::vector<PostProcessorStep>& steps) {
  using Kind = PostProcessorStep::Kind;
  for (const PostProcessorStep& step : steps) {
    std::vector<int32_t> front, back;
    if (step.kind == Kind::kBert || step.kind == Kind::kRoberta) {
      front = {step.cls.second};
      back = {step.sep.second};
    }
    bool behind = false;
    for (const TemplatePiece& piece : step.single) {
      if (piece.kind == TemplatePiece::Kind::kSequenceA) {
        behind = true;
        continue;
      }
      std::vector<int32_t>& side = behind ? back : front;
      side.insert(side.end(), piece.ids.begin(), piece.ids.end());
    }
    front_.insert(front_.begin(), front.begin(), front.end());
    back_.insert(back_.end(), back.begin(), back.end());
  }
}

}  // namespace quantd
