// The services, one file each. Every handler is an adapter: it admits the call, hands the work to a
// pool or a model, and translates the result.
#ifndef QUANTD_SERVICE_HANDLERS_HANDLERS_H_
#define QUANTD_SERVICE_HANDLERS_HANDLERS_H_

#include <memory>

namespace grpc {
class Service;
}

namespace quantd {

struct ServiceContext;

std::unique_ptr<grpc::Service> NewMethodService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewQuantizationService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewOperationsService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewModelService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewInferenceService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewEvaluationService(ServiceContext& services);
std::unique_ptr<grpc::Service> NewOpenInferenceService(ServiceContext& services);

}  // namespace quantd

#endif  // QUANTD_SERVICE_HANDLERS_HANDLERS_H_
