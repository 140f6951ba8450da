// embed.cl - y[token] = row ids[token] of a packed matrix. Needs weights.cl.
//
// The matrix holds rows [first_row, first_row + rows) of the whole table; other ids are left to the
// launches of the table's other parts. Grid: [chunks per row, tokens].

__kernel void EmbedRows(WEIGHT_PARAMETERS, const int rows, const int cols,
                        __global const int *ids, __global float *y, const int first_row) {
  const int chunk = get_global_id(0);
  const int token = get_global_id(1);
  const int row = ids[token] - first_row;
  if (row < 0 || row >= rows) return;
  float values[8];
  vstore8(LoadWeights(WEIGHT_ARGUMENTS, row, chunk), 0, values);
  y += (size_t)token * cols;
  for (int i = 0; i < 8 && 8 * chunk + i < cols; ++i) y[8 * chunk + i] = values[i];
}
