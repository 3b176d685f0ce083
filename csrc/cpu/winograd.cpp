// Winograd's transforms of rows of tiles.
#include "cpu/row_kernels.h"
#include "demons.h"

namespace cxr {

void winograd_cpu(const TileBatch& in, bool forward, int threads) {
  const auto run = forward ? row_kernels<float>().tiles_to_points : row_kernels<float>().tiles_from_points;
  const int down = (in.height + 3) / 4, across = (in.width + 3) / 4;
  const size_t pixels = size_t(in.height) * in.width;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int i = 0; i < in.rows; ++i) {
    const int row = in.first + i;
    run({in.image + (row / down) * pixels * in.channels, in.bias, in.points + size_t(i) * across * in.channels, in.height, in.width,
         4 * (row % down), in.channels, in.stride});
  }
}

}  // namespace cxr
