#include "quant/v1/methods.grpc.pb.h"

#include <algorithm>

#include "quantizers/method.h"
#include "service/handlers/handlers.h"
#include "service/messages.h"
#include "service/status.h"
#include "service/unary.h"

namespace quantd {
namespace {

namespace pb = quant::v1;

class MethodHandlers final : public pb::MethodService::CallbackService {
 public:
  explicit MethodHandlers(ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* ListMethods(grpc::CallbackServerContext* context,
                                        const pb::ListMethodsRequest*,
                                        pb::ListMethodsResponse* response) override {
    return StartUnary(
        services_, context, "quant.v1.MethodService/ListMethods", Access::kRead,
        [response](const UnaryCallPtr& call) {
          call->Finish(absl::OkStatus(), [response] {
            for (const Method& method : AllMethods()) {
              *response->add_methods() = ToMessage(method);
            }
            std::sort(response->mutable_methods()->begin(), response->mutable_methods()->end(),
                      [](const pb::Method& a, const pb::Method& b) { return a.name() < b.name(); });
          });
        });
  }

  grpc::ServerUnaryReactor* GetMethod(grpc::CallbackServerContext* context,
                                      const pb::GetMethodRequest* request,
                                      pb::Method* response) override {
    return StartUnary(services_, context, "quant.v1.MethodService/GetMethod", Access::kRead,
                      [request, response](const UnaryCallPtr& call) {
                        const auto method = FindMethod(request->name());
                        // A name to look up that is not there, rather than a wrong option of a job.
                        const absl::Status status =
                            absl::IsInvalidArgument(method.status()) && !request->name().empty()
                                ? absl::NotFoundError(method.status().message())
                                : method.status();
                        call->Finish(status, [&] { *response = ToMessage(**method); });
                      });
  }

 private:
  ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewMethodService(ServiceContext& services) {
  return std::make_unique<MethodHandlers>(services);
}

}  // namespace quantd
