// Whether a displacement folds.
#include <algorithm>
#include <vector>

#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {

template <class T> void smallest_jacobian_cpu(const T* displacement, int batch, int height, int width, T* out, int threads) {
  const RowKernels<T>& kernels = row_kernels<T>();
  const size_t size = size_t(height) * width;
  std::vector<T> rows(size_t(batch) * height);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long row = 0; row < long(batch) * height; ++row) {
    const int y = int(row % height), above = std::max(y - 1, 0), below = std::min(y + 1, height - 1);
    const T *ux = displacement + row / height * 2 * size, *uy = ux + size;
    const auto at = [&](const T* plane, int line) { return plane + size_t(line) * width; };
    rows[row] = kernels.jacobian({at(ux, above), at(ux, y), at(ux, below), at(uy, above), at(uy, y), at(uy, below), width,
                                  T(1) / T(below - above)});
  }
  for (int i = 0; i < batch; ++i) {
    out[i] = rows[size_t(i) * height];
    for (int y = 1; y < height; ++y) out[i] = smaller(rows[size_t(i) * height + y], out[i]);
  }
}

template void smallest_jacobian_cpu<float>(const float*, int, int, int, float*, int);
template void smallest_jacobian_cpu<double>(const double*, int, int, int, double*, int);

}  // namespace cxr
